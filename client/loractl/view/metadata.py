"""Metadata as people read them: sections of names and values, for the terminal, as text and as Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from loracore.errors import UsageError
from loracore.jobs.metadata import MetadataResult
from loracore.jobs.results import plain
from loracore.paths import shown
from loracore.whole import check_place, write_whole

Section = tuple[str, list[tuple[str, str]]]

#: Characters of one value, and entries of one that lists things, that are shown; JSON has all.
_LONG = 2000
_BRIEF = 300
_ENTRIES = 30
_TITLES = {
    "file_info": "File",
    "model_info": "Model",
    "architecture_info": "Architecture",
    "training_info": "Training",
    "validation_info": "Validation",
}
#: In the sections these say the same as others, or are shown by themselves.
_APART = frozenset({"all_metadata", "path"})
#: A row for each.
_LINES = frozenset({"warnings", "errors"})
_MARKDOWN = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|#"})


def check_output(output: str) -> None:
    """Raises UsageError before anything is read."""
    if _suffix(output) not in _WRITERS:
        raise UsageError(f"{shown(output)}: metadata are written as {', '.join(_WRITERS)}, by the suffix")
    check_place(output)


def export(found: MetadataResult, output: str) -> None:
    """Write all of it to `output`, in the form that its suffix says; the file is there whole or not at all."""
    write_whole(output, _WRITERS[_suffix(output)](found).encode("utf-8", "backslashreplace"))


def sections(found: MetadataResult, *, brief: bool = False) -> Iterator[Section]:
    """Titles, and what is known: names and values fit for a terminal. `brief` leaves the raw metadata out."""
    limit = _BRIEF if brief else _LONG
    blocks = plain(found)
    for block, title in _TITLES.items():
        yield title, [row for name, value in blocks[block].items() for row in _rows(name, value, limit)]
    entries = blocks["model_info"]["all_metadata"]
    if entries and not brief:
        yield "All metadata", [(shown(name), _shown(value, limit)) for name, value in entries.items()]


def _rows(name: str, value: Any, limit: int) -> Iterator[tuple[str, str]]:
    """Nothing for what is not known; a row for each warning and error."""
    if name in _APART or value is None or value in ([], {}, "") or (name == "different_tags" and not value):
        return
    if name in _LINES:
        yield from ((name[:-1], _shown(line, _LONG)) for line in value[:_ENTRIES])
        if len(value) > _ENTRIES:
            yield name, _more(len(value)).strip()
    else:
        yield name.replace("_", " "), _shown(value, limit)


def to_text(found: MetadataResult) -> str:
    lines = []
    for title, rows in sections(found):
        width = max((len(name) for name, _ in rows), default=0)
        lines += [title, *(f"  {name:{width}}  {value}".rstrip() for name, value in rows), ""]
    return "\n".join(lines)


def to_markdown(found: MetadataResult) -> str:
    lines = [f"# {shown(found.file_info.filename).translate(_MARKDOWN)}", ""]
    for title, rows in sections(found):
        lines += [f"## {title}", "", "| | |", "|---|---|"]
        lines += [f"| {name.translate(_MARKDOWN)} | {value.translate(_MARKDOWN)} |" for name, value in rows]
        lines.append("")
    return "\n".join(lines)


def to_json(found: MetadataResult) -> str:
    return json.dumps(plain(found), indent=2) + "\n"


_WRITERS = {".json": to_json, ".txt": to_text, ".md": to_markdown}


def _suffix(output: str) -> str:
    return os.path.splitext(output)[1].lower()


def _shown(value: Any, limit: int) -> str:
    match value:
        case bool():
            text = "yes" if value else "no"
        case int():
            # A year, a seed or a session are no counts; only long ones are grouped.
            text = str(value)
        case float():
            text = f"{value:g}"
        case list() if all(isinstance(item, str) for item in value):
            text = "; ".join(value[:_ENTRIES]) + _more(len(value))
        case list():
            text = "; ".join(_pairs(item) for item in value[:_ENTRIES]) + _more(len(value))
        case dict():
            text = ", ".join(f"{name}: {_inner(item)}" for name, item in list(value.items())[:_ENTRIES])
            text += _more(len(value))
        case _:
            text = str(value)
    text = shown(" ".join(text.split()))
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def _more(count: int) -> str:
    return f" … and {count - _ENTRIES:,} more" if count > _ENTRIES else ""


def _pairs(item: Any) -> str:
    if isinstance(item, dict):
        return ", ".join(f"{name}: {_inner(value)}" for name, value in item.items() if value is not None)
    return _inner(item)


def _inner(item: Any) -> str:
    return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
