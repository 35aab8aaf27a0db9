"""The model card, `README.md`, of an adapter's folder: what the entries at its head state.

They are YAML (https://huggingface.co/docs/hub/model-cards). Entries of one text, or of a list of texts, are read,
as trainers write them: nothing else is needed, and no library that each loader would have to load. A card that
people wrote otherwise states less.
"""

from __future__ import annotations

import os
import re

from loracore.whole import regular

CARD = b"README.md"
#: Weight files whose folder is theirs alone, so that its card speaks of them.
_WEIGHTS = (b"adapter_model.", b"pytorch_lora_weights.")
#: Of a card so much is read; pictures of examples make the longest ones.
_MOST = 1 << 16
_HEAD = re.compile(rb"\A(?:\xef\xbb\xbf)?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_ENTRY = re.compile(r"([A-Za-z_][\w-]*):(?:[ \t]+(.*))?")
_ITEM = re.compile(r"[ \t]*-[ \t]+(.*)")
_BLOCK = re.compile(r"[|>][+-]?")
_QUOTED = re.compile(r"""'((?:[^']|'')*)'|"((?:[^"\\]|\\.)*)\"""")


def has_card(path: bytes) -> bool:
    """Whether a card beside a file of this name speaks of it."""
    return os.path.basename(path).startswith(_WEIGHTS)


def card_text(folder: bytes) -> bytes | None:
    """The entries of the card in a folder; None where there are none, or none that can be read."""
    try:
        with open(os.path.join(folder, CARD), "rb", opener=regular) as file:
            head = _HEAD.match(file.read(_MOST))
    except OSError:
        return None
    return head[1] if head else None


def card_entries(text: bytes) -> dict[str, str | list[str]]:
    """Its entries by their names; those of another form are left out."""
    lines: dict[str, list[str]] = {}
    key = ""
    for line in text.decode("utf-8", "replace").splitlines():
        if entry := _ENTRY.fullmatch(line):
            key = entry[1]
            lines[key] = [entry[2] or ""]
        elif key and line.strip() and not line.lstrip().startswith("#"):
            lines[key].append(line)
    entries = {key: _value(*said) for key, said in lines.items()}
    return {key: value for key, value in entries.items() if value}


def _value(first: str, *further: str) -> str | list[str]:
    """What stands behind a name, on its line and on those below."""
    if first.startswith("["):
        return [_scalar(part) for part in first.strip("[] ").split(",")] if first.endswith("]") else []
    if not first and further and all(map(_ITEM.fullmatch, further)):
        return [_scalar(line.strip()[1:]) for line in further if ": " not in line]
    if first.startswith(("{", "&", "*", "!")) or any(line[:1] not in (" ", "\t") for line in further):
        return ""
    if not first and any(": " in line or line.rstrip().endswith(":") for line in further):
        return ""
    parts = ["" if _BLOCK.fullmatch(first) else first, *further]
    return _scalar(" ".join(part.strip() for part in parts))


def _scalar(text: str) -> str:
    """A text without its quotes, or the remark behind it."""
    text = text.strip()
    if quoted := _QUOTED.match(text):
        return quoted[1].replace("''", "'") if quoted[2] is None else quoted[2].replace('\\"', '"')
    text = text.partition(" #")[0].strip()
    return "" if text in ("null", "~") else text
