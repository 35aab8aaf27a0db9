"""Tables as files: JSON, CSV, Parquet, text and Markdown, by the suffix."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from loracore.errors import MissingPackage, UsageError
from loracore.jobs.results import Cell, Table
from loracore.paths import shown
from loracore.whole import check_place, write_whole

SUFFIXES = (".json", ".csv", ".parquet", ".txt", ".md")
#: Characters of JSON that somebody may look at.
_LONG = 1 << 22
_MARKDOWN = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|#"})


def check_output(output: str) -> None:
    """Before anything is computed: raises UsageError and MissingPackage."""
    if _suffix(output) not in SUFFIXES:
        raise UsageError(f"{shown(output)}: tables are written as {', '.join(SUFFIXES)}, by the suffix")
    if _suffix(output) == ".parquet":
        _parquet()
    check_place(output)


def export(output: str, tables: Sequence[tuple[str, Table]], document: Callable[[], Any]) -> None:
    """Write the file whole or not at all.

    JSON is `document()`, all of a result; text and Markdown hold all `tables` under their titles; CSV and Parquet
    hold the first one.
    """
    first = tables[0][1]
    match _suffix(output):
        case ".json":
            data = _json(document())
        case ".csv":
            data = _csv(first)
        case ".parquet":
            data = _to_parquet(first)
        case ".md":
            data = "\n".join(_markdown(title, table) for title, table in tables).encode(
                "utf-8", "backslashreplace"
            )
        case _:
            data = "\n".join(_text(title, table) for title, table in tables).encode("utf-8", "backslashreplace")
    write_whole(output, data)


def brief(cell: Cell, digits: int = 4) -> str:
    """A cell as people read it."""
    match cell:
        case None:
            return "–"
        case float():
            return f"{cell:.{digits}g}"
        case int():
            return f"{cell:,}"
    return shown(cell)


def _suffix(output: str) -> str:
    return os.path.splitext(output)[1].lower()


def _json(document: Any) -> bytes:
    """With line breaks, unless it is so long that nobody reads it and each break costs."""
    text = json.dumps(document)
    return (json.dumps(document, indent=1) if len(text) < _LONG else text).encode() + b"\n"


def _csv(table: Table) -> bytes:
    """As spreadsheets and pandas read it: numbers in full, nothing where nothing is known."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.names)
    writer.writerows(["" if cell is None else cell for cell in row] for row in table.rows())
    return text.getvalue().encode("utf-8", "backslashreplace")


def _text(title: str, table: Table) -> str:
    rows = [[brief(cell, 6) for cell in row] for row in table.rows()]
    widths = [max(map(len, column)) for column in zip(table.names, *rows, strict=True)]
    right = _numeric(table)
    lines = [title, ""]
    for row in [list(table.names), *rows]:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _markdown(title: str, table: Table) -> str:
    marks = ["---:" if number else "---" for number in _numeric(table)]
    rows = [[brief(cell, 6).translate(_MARKDOWN) for cell in row] for row in table.rows()]
    names = [name.translate(_MARKDOWN) for name in table.names]
    lines = [f"## {title.translate(_MARKDOWN)}", ""]
    lines += [f"| {' | '.join(row)} |" for row in [names, marks, *rows]]
    return "\n".join(lines) + "\n"


def _numeric(table: Table) -> list[bool]:
    return [not any(isinstance(cell, str) for cell in column.cells) for column in table.columns]


def _to_parquet(table: Table) -> bytes:
    pyarrow, parquet = _parquet()
    arrays = [_arrow(pyarrow, column.cells) for column in table.columns]
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(arrays, names=list(table.names)), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _arrow(pyarrow: Any, cells: Sequence[Cell]) -> Any:
    if any(isinstance(cell, str) for cell in cells):
        texts = [
            None if cell is None else str(cell).encode("utf-8", "backslashreplace").decode() for cell in cells
        ]
        return pyarrow.array(texts, pyarrow.string())
    whole = all(cell is None or isinstance(cell, int) for cell in cells)
    return pyarrow.array(cells, pyarrow.int64() if whole else pyarrow.float64())


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow.parquet  # noqa: PLC0415 - slow to import, and for Parquet alone
    except ModuleNotFoundError as error:
        raise MissingPackage("Parquet needs pyarrow: pip install 'lorad[toolkit]'") from error
    return pyarrow, pyarrow.parquet
