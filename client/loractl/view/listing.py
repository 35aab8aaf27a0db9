"""Files that `list` found: as rows on a terminal, as a table to be written, and as JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from loracore.control import ListedFile
from loracore.expressions import FIELDS
from loracore.facts import Facts
from loracore.jobs.results import Cell, Column, Table
from loracore.paths import shown
from loracore.time import rfc3339
from loractl.view import tables

#: What is shown where nobody has said what.
COLUMNS = ("family", "base", "algorithm", "rank", "size", "state", "path")
_FACTS = {"component": "components", "trigger": "triggers", "tag": "tags"}
_NUMBERS = frozenset({"number", "size"})


def table(files: Sequence[ListedFile], columns: Sequence[str]) -> Table:
    """As it is exported: sizes in bytes, times by RFC 3339."""
    return Table(tuple(Column(name, [_cell(file, name) for file in files]) for name in columns))


def rows(files: Sequence[ListedFile], columns: Sequence[str]) -> tuple[list[tables.Column], list[tuple[str, ...]]]:
    """Heads, and rows as people read them."""
    folds = {"path", "name", "dir", "title", "problem", "trigger", "tag"}
    heads = [tables.Column(name, right=FIELDS[name].kind in _NUMBERS, folds=name in folds) for name in columns]
    return heads, [tuple(_text(file, name) for name in columns) for file in files]


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
        "format": file.format, **known,
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
    }
    if name in own:
        return own[name]()
    value = getattr(file.facts, {"hash": "model_hash", **_FACTS}.get(name, name), None)
    if name == "tag":
        return ", ".join(tag for tag, _ in value or ()) or None
    if isinstance(value, tuple):
        return ", ".join(value) or None
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


def _text(file: ListedFile, name: str) -> str:
    cell = _cell(file, name)
    if name == "size":
        return tables.size(file.size)
    if isinstance(cell, float):
        return f"{cell:g}"
    if isinstance(cell, int):
        return f"{cell:,}"
    return shown(cell or "")
