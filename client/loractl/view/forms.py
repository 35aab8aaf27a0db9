"""Answers as JSON: the same shapes and names as in the JSON files, where they say the same.

Paths are strings with surrogate escapes, hashes are hex.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import msgspec

from loracore.control import DuplicateSet, FailedFile, Group, Match, Told

#: Fields whose bytes are a hash; those of others are a path.
_HASHES = frozenset({"layout", "weights", "signature"})


def print_json(value: object) -> None:
    """One object on one line, at once."""
    print(json.dumps(value), flush=True)


def form(answer: msgspec.Struct) -> dict[str, Any]:
    """A struct's fields, without its tag."""
    return {name: _value(name, getattr(answer, name)) for name in answer.__struct_fields__}


def _value(name: str, value: Any) -> Any:
    match value:
        case bytes():
            return value.hex() if name in _HASHES else os.fsdecode(value)
        case msgspec.Struct():
            return form(value)
        case list() | tuple():
            return [_value(name, item) for item in value]
        case dict():
            return {key: _value(name, item) for key, item in value.items()}
    return value


def groups_form(generation: int, groups: Iterable[Group]) -> dict[str, Any]:
    listed = {group.signature.hex(): [os.fsdecode(path) for path in group.paths] for group in groups}
    return {"generation": generation, "groups": listed}


def duplicates_form(generation: int, complete: bool, sets: Iterable[DuplicateSet]) -> dict[str, Any]:
    duplicates: dict[str, list[str]] = {}
    levels: dict[str, str] = {}
    functions: dict[str, str] = {}
    wasted = 0
    for found in sets:
        duplicates[os.fsdecode(found.kept)] = [os.fsdecode(path) for path, _ in found.others]
        levels.update((os.fsdecode(path), level) for path, level in found.others)
        functions.update((os.fsdecode(path), "differs") for path in found.differing)
        wasted += found.wasted_bytes
    return {
        "generation": generation,
        "complete": complete,
        "wasted_bytes": wasted,
        "duplicates": duplicates,
        "levels": levels,
        "functions": functions,
    }


def failed_form(generation: int, files: Iterable[FailedFile]) -> dict[str, Any]:
    return {"generation": generation, "failed": {os.fsdecode(file.path): file.reason for file in files}}


def found_form(matches: Iterable[Match], note: str) -> dict[str, Any]:
    return {"matches": [form(match) for match in matches], "note": note}


def event_form(told: Told) -> dict[str, Any]:
    kind = told.event.__struct_config__.tag
    return {"number": told.number, "time": told.time, "kind": kind, **form(told.event)}
