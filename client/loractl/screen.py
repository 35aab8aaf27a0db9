"""What needs rich: tables, and the status as it is seen on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loracore.control import Status
from loractl.summary import Section, headline, numbers, progress, sections
from loractl.tables import STYLES, Column, Row

_BAR = 40


def rich_table(columns: Sequence[Column], rows: Iterable[Row]) -> Table:
    """Rows of texts; nothing in them is taken for markup."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        justify = "right" if column.right else "left"
        fold = "fold" if column.folds else "ellipsis"
        table.add_column(column.name, justify=justify, overflow=fold, no_wrap=not column.folds)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


def status_screen(status: Status) -> RenderableType:
    """All of a status."""
    done, total, percent = progress(status)
    line = Table.grid(padding=(0, 2, 0, 0))
    finished = "green" if done == total else "cyan"
    bar = ProgressBar(total=max(1, total), completed=done if total else 1, width=_BAR, complete_style=finished)
    line.add_row(bar, Text(f"{percent:.1f} %"), Text(f"{done:,} of {total:,} files"))
    facts = Table.grid(padding=(0, 2, 0, 0))
    for name, value in numbers(status):
        facts.add_row(Text(name, style="dim"), Text(value))
    state = Text(headline(status))
    state.stylize("bold")
    return Group(state, line, facts, *(part for section in sections(status) for part in _section(section)))


def _section(section: Section) -> list[RenderableType]:
    return [Text(), Text(section.title, style="bold"), rich_table(section.columns, section.rows)]
