"""Tables, with colours on a terminal and as plain columns elsewhere, and numbers as people read them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

#: Between columns.
_GAP = 2
#: Rows of one table; a pipe or --json has all of a longer one.
_ROWS = 500

#: How a cell is shown where there are colours. Cells that are none of these are plain.
_STYLES = {
    "ok": "green", "watching": "green", "ready": "green", "idle": "green", "kept": "green",
    "warning": "yellow", "polling": "yellow", "paused": "yellow", "starting": "yellow", "waiting": "yellow",
    "problem": "red", "degraded": "red", "missing": "red", "failed": "red",
}  # fmt: skip


class Column(NamedTuple):
    """A column's head. `right`: numbers. `folds`: long text, such as a path; the others keep their width."""

    name: str
    right: bool = False
    folds: bool = False


Row = Sequence[str]


def show_table(columns: Sequence[Column], rows: Iterable[Row], *, title: str = "", heads: bool = False) -> None:
    """Print rows of texts that are fit for a terminal (`loracore.paths.shown`). `heads`: also in a pipe."""
    if sys.stdout.isatty():
        _print_rich(columns, rows, title)
    else:
        print_plain(columns, [[column.name for column in columns], *rows] if heads else rows)


def _print_rich(columns: Sequence[Column], rows: Iterable[Row], title: str) -> None:
    """Print the first rows, and how many more there are."""
    from rich import console, text  # noqa: PLC0415 - for a terminal alone

    rows = iter(rows)
    terminal = console.Console(highlight=False)
    if title:
        terminal.print(text.Text(title, style="bold"))
    terminal.print(rich_table(columns, islice(rows, _ROWS)))
    left = sum(1 for _ in rows)
    if left:
        terminal.print(text.Text(f"… and {left:,} more; a pipe or --json has them all", style="dim"))


def rich_table(columns: Sequence[Column], rows: Iterable[Row]) -> Table:
    """Rows of texts; nothing in them is taken for markup."""
    from rich import table, text  # noqa: PLC0415 - for a terminal alone

    made = table.Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        justify = "right" if column.right else "left"
        fold = "fold" if column.folds else "ellipsis"
        made.add_column(column.name, justify=justify, overflow=fold, no_wrap=not column.folds)  # type: ignore[arg-type]
    for row in rows:
        made.add_row(*(text.Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return made


def fitting(columns: Sequence[Column], rows: Sequence[Row], width: int) -> int:
    """How many columns stand side by side on so wide a terminal, the first ones before the others; at least two.

    A long text that folds may be cut down to half of the width, and no further: who reads a column of fragments?
    """
    room = width
    for place, column in enumerate(columns):
        needed = max([len(column.name), *(len(row[place]) for row in rows)])
        room -= min(needed, max(len(column.name), width // 2)) if column.folds else needed
        if room < 0 and place > 1:
            return place
        room -= _GAP
    return len(columns)


def print_plain(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    """Columns two spaces apart, without heads. Nothing is cut."""
    listed = list(rows)
    widths = [max((len(row[index]) for row in listed), default=0) for index in range(len(columns))]
    for row in listed:
        cells = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def size(count: float) -> str:
    """Bytes in decimal units, as disks are sold and as file managers show them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def count(number: int, thing: str) -> str:
    """A number of things, such as `1 file` and `2 files`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """The two largest units, as in `3 h 12 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
