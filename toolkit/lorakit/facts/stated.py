"""What a file states about itself: texts by strangers, made into values of bounded size and depth.

Trainers put JSON into strings, `None` and `Dynamic` where numbers belong, and NaN where JSON has none. Whatever
stands there, a value comes out or it is left as text, and `notes` name what could not be used.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from loracore.adapter.card import card_entries, card_text, has_card
from loracore.jobs.metadata import Stated

#: A longer text is not parsed; tag frequencies of 100,000 images come to one MiB.
_MAX_JSON = 4 << 20
#: A longer one is cut, once it is clear that it is not JSON.
_MAX_TEXT = 1 << 20
#: What is nested deeper stays text; no trainer comes near.
_MAX_DEPTH = 32
_MAX_NUMBER = 1 << 63
_DIGITS = 64
#: How writers say that there is nothing.
_NOTHING = frozenset({"", "none", "null", "nan", "n/a", "undefined", "[]", "{}"})
#: What stands where each module has a value of its own.
DYNAMIC = "dynamic"
#: Names in one line of notes.
_NAMED = 12


class Statements:
    """The metadata of a file, and of other sources below prefixes of their own, such as `peft.`.

    Values are looked up by several keys in turn: the first that is there and says something counts.
    """

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self.values: dict[str, Any] = {}
        #: What could not be used, by its key.
        self.notes: list[str] = []
        for key, text in metadata.items():
            self.values[_clean(key)] = self._parsed(_clean(key), text)
        self._asked: dict[str, None] = {}

    def add(self, prefix: str, found: Mapping[str, Any]) -> None:
        """Values of another source, parsed already, to be asked for as `prefix.key`."""
        for key, value in found.items():
            try:
                self.values.setdefault(f"{prefix}.{_clean(key)}", cleaned_json(value))
            except ValueError:
                self.notes.append(f"{shortened(f'{prefix}.{key}')} is nested too deeply")

    def first(self, *keys: str) -> Any:
        """The first value that says something; None if none does."""
        return next((value for _, value in self._said(keys)), None)

    def text(self, *keys: str) -> str | None:
        for _, value in self._said(keys):
            if isinstance(value, str):
                return value.strip()
            if not isinstance(value, dict | list):
                return str(value)
        return None

    def number(self, *keys: str) -> Stated:
        """A number where it is one, else its text, which `notes` name."""
        for key, value in self._said(keys):
            found = as_number(value)
            if found is not None:
                return found
            if isinstance(value, list) and all(as_number(item) is not None for item in value):
                return ", ".join(str(as_number(item)) for item in value)
            if isinstance(value, str) and value.strip().lower() != DYNAMIC:
                self.notes.append(f"{key} is not a number: {shortened(value)}")
                return value.strip()[:200]
            if isinstance(value, dict | list):
                self.notes.append(f"{key} is not a number, but JSON")
        return None

    def mapping(self, *keys: str) -> dict[str, Any]:
        for key, value in self._said(keys):
            if isinstance(value, dict):
                return value
            self.notes.append(f"{key} is not a JSON object: {shortened(value)}")
        return {}

    def is_dynamic(self, key: str) -> bool:
        value = self.values.get(key)
        return isinstance(value, str) and value.strip().lower() == DYNAMIC

    def silent(self) -> list[str]:
        """Keys that were asked for and are there, but say nothing, such as "None"."""
        return [key for key in self._asked if key in self.values and says_nothing(self.values[key])]

    def _said(self, keys: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        self._asked.update(dict.fromkeys(keys))
        for key in keys:
            value = self.values.get(key)
            if not says_nothing(value):
                yield key, value

    def _parsed(self, key: str, text: str) -> Any:
        start = text.lstrip()[:1]
        if start in ("{", "["):
            if len(text) > _MAX_JSON:
                self.notes.append(f"{shortened(key)} holds {len(text):,} characters of JSON, too many to be read")
            else:
                try:
                    return cleaned_json(json.loads(text, parse_constant=lambda _: None))
                except (ValueError, RecursionError) as error:
                    # Much that begins with a bracket is no JSON: a text, a list as Python prints it.
                    if start == "{" or not isinstance(error, json.JSONDecodeError):
                        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                        self.notes.append(f"{shortened(key)} holds JSON that cannot be read: {why}")
        if len(text) > _MAX_TEXT:
            self.notes.append(f"{shortened(key)} holds {len(text):,} characters; its end was cut")
            text = text[:_MAX_TEXT] + "…"
        return _clean(text)


def statements(metadata: Mapping[str, str], config: Mapping[str, Any], path: bytes) -> Statements:
    """A file's metadata, and what is below prefixes: `peft.`, `ot.` (OneTrainer), `toolkit.`, and `card.`.

    The last one is the model card beside the file at `path`, which is read.
    """
    stated = Statements(metadata)
    stated.add("peft", config)
    text = card_text(os.path.dirname(path)) if has_card(path) else None
    stated.add("card", {} if text is None else card_entries(text))
    parts = stated.values.get("lora_adapter_metadata")
    if isinstance(parts, dict):
        # diffusers: `transformer.r`, `text_encoder.lora_alpha`.
        stated.add("peft", {key.partition(".")[2]: value for key, value in parts.items() if "." in key})
    for key, prefix in (("ot_config", "ot"), ("training_info", "toolkit")):
        if isinstance(stated.values.get(key), dict):
            stated.add(prefix, stated.values[key])
    for part in ("unet", "text_encoder"):
        if isinstance(stated.values.get(f"ot.{part}"), dict):
            stated.add(f"ot.{part}", stated.values[f"ot.{part}"])
    return stated


def says_nothing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in _NOTHING
    return value is None or value in ({}, [])


def as_number(value: Any) -> int | float | None:
    """A finite number, also from its text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _DIGITS:
            return None
        try:
            value = int(text)
        except ValueError:
            try:
                value = float(text)
            except ValueError:
                return None
    if isinstance(value, int):
        return value if abs(value) < _MAX_NUMBER else None
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() and abs(value) < 1 << 53 else value
    return None


def as_count(value: Any) -> int | None:
    found = as_number(value)
    return found if isinstance(found, int) and found >= 0 else None


def cleaned_json(value: Any) -> Any:
    """A copy without what cannot travel: NaN, numbers beyond 64 bits, lone surrogates.

    Raises ValueError for what is nested too deeply.
    """
    return _cleaned(value, 0)


def _cleaned(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    match value:
        case str():
            return _clean(value)
        case bool() | None:
            return value
        case int():
            return value if abs(value) < _MAX_NUMBER else _long(value)
        case float():
            return value if math.isfinite(value) else None
        case list() | tuple():
            return [_cleaned(item, depth + 1) for item in value]
        case dict():
            return {_clean(str(key)): _cleaned(item, depth + 1) for key, item in value.items()}
    return _clean(str(value))


def _long(value: int) -> str:
    try:
        return str(value)
    except ValueError:
        return hex(value)


def _clean(text: str) -> str:
    """Without lone surrogates, which no UTF-8 has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def shortened(value: Any, length: int = 60) -> str:
    """A value as one line of notes shows it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text[: 4 * length].split())
    return repr(text if len(text) <= length else f"{text[:length]}…")


def listed(names: list[str]) -> str:
    """Names in one line."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
