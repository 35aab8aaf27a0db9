"""Files that `list` found: as rows on a terminal, as a table to be written, and as JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from loracore.control import FileSet, ListedFile
from loracore.expressions import FIELDS
from loracore.facts import Facts
from loracore.jobs.results import Cell, Column, Table
from loracore.paths import shown
from loracore.time import rfc3339
from loractl.view import tables

#: The columns by default.
COLUMNS = ("family", "base", "algorithm", "rank", "size", "state", "path")
#: Fields that have another name in `Facts`.
_ATTRIBUTES = {"component": "components", "trigger": "triggers", "tag": "tags", "hash": "model_hash"}
_NUMBERS = frozenset({"number", "size"})


def table(files: Sequence[ListedFile], columns: Sequence[str]) -> Table:
    """As it is exported: sizes in bytes, times by RFC 3339."""
    return Table(tuple(Column(name, [_cell(file, name) for file in files]) for name in columns))


def rows(files: Sequence[ListedFile], columns: Sequence[str]) -> tuple[list[tables.Column], list[tuple[str, ...]]]:
    """Heads, and rows as people read them."""
    folds = {"path", "name", "dir", "title", "problem", "trigger", "tag", "own", "note"}
    heads = [tables.Column(name, right=FIELDS[name].kind in _NUMBERS, folds=name in folds) for name in columns]
    return heads, [tuple(_text(file, name) for name in columns) for file in files]


def told(facts: Facts | None) -> Iterator[tuple[str, str]]:
    """What is known of facts, each by the name of its field."""
    for name in FIELDS if facts else ():
        value = _value(facts, name)
        if value not in (None, ()):
            yield name, _shown(_plain(name, value))


def set_rows(found: FileSet) -> Iterator[tuple[str, ...]]:
    """A row for each file, the first with what the set is and how many there are."""
    for place, file in enumerate(found.files):
        facts = file.facts or Facts()
        head = (shown(found.name), f"{found.total:,}") if not place else ("", "")
        numbers = ("" if number is None else f"{number:,}" for number in (facts.epoch, facts.steps))
        yield *head, *numbers, tables.size(file.size), shown(file.path)


def form(files: Sequence[ListedFile], total: int) -> dict[str, Any]:
    """One object: each file with all its facts, null where they are not known."""
    return {"files": [_form(file) for file in files], "total": total}


def _form(file: ListedFile) -> dict[str, Any]:
    facts = file.facts or Facts()
    known = {name: getattr(facts, name) for name in Facts.__struct_fields__}
    if file.facts is None:
        known |= {"sound": None, "modules": None}
    return {
        "path": os.fsdecode(file.path), "size": file.size, "mtime_ns": file.mtime_ns, "state": file.state,
        "format": file.format, **known, "own": file.own, "note": file.note or None,
        "hash": file.hash,
    }  # fmt: skip


def _cell(file: ListedFile, name: str) -> Cell:
    own: dict[str, Callable[[], Cell]] = {
        "path": lambda: os.fsdecode(file.path),
        "name": lambda: os.fsdecode(os.path.basename(file.path)),
        "dir": lambda: os.fsdecode(os.path.dirname(file.path)),
        "size": lambda: file.size,
        "modified": lambda: rfc3339(file.mtime_ns / 1e9, "seconds"),
        "state": lambda: file.state,
        "format": lambda: file.format,
        "own": lambda: ", ".join(file.own) or None,
        "note": lambda: file.note or None,
        "hash": lambda: file.hash,
    }
    if name in own:
        return own[name]()
    return _plain(name, _value(file.facts, name))


def _value(facts: Facts | None, name: str) -> Any:
    if name == "base" and facts is not None:
        # A file that states no version of it states its file in both places.
        return tuple(dict.fromkeys(text for text in (facts.base, facts.base_file) if text))
    return getattr(facts, _ATTRIBUTES.get(name, name), None)


def _plain(name: str, value: Any) -> Cell:
    """A fact as one cell."""
    if name == "tag":
        return ", ".join(tag for tag, _ in value or ()) or None
    if isinstance(value, tuple):
        return ", ".join(value) or None
    if isinstance(value, bool):
        return "yes" if value else "no"
    cell: Cell = value
    return cell


def _text(file: ListedFile, name: str) -> str:
    if name == "base" and file.facts and file.facts.base_file:
        # The version is known by its family, and its column is narrow.
        return shown(file.facts.base_file.removesuffix(".safetensors").removesuffix(".ckpt"))
    return tables.size(file.size) if name == "size" else _shown(_cell(file, name))


def _shown(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:g}"
    if isinstance(cell, int):
        return f"{cell:,}"
    return shown(cell or "")
