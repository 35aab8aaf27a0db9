"""The status on a terminal, by rich."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loracore.control import Status
from loractl.view.status import Section, headline, numbers, progress, sections
from loractl.view.tables import rich_table

_BAR = 40
#: Seconds between two looks at a status that is followed.
_REFRESH = 0.5


def print_status(ask: Callable[[], Status], *, follow: bool) -> None:
    """Print a status; `follow`: refresh it in place, without end."""
    console = Console(highlight=False)
    if not follow:
        console.print(status_screen(ask()))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(status_screen(ask()), refresh=True)
            time.sleep(_REFRESH)


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
