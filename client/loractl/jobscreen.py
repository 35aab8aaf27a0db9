"""What needs rich: how far a job is, on standard error."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from loracore.paths import shown

#: Columns of the terminal from which on there is room for a time to go.
_NARROW = 60


class _What(ProgressColumn):
    """What it is at. Nothing in it is taken for markup."""

    def render(self, task: object) -> Text:
        return Text(str(getattr(task, "description", "")), overflow="ellipsis", no_wrap=True)


class JobBar:
    """The live line of a job. It goes when the job ends."""

    def __init__(self, name: str) -> None:
        console = Console(stderr=True)
        columns: list[ProgressColumn] = [SpinnerColumn(), _What(), BarColumn(bar_width=None), TaskProgressColumn()]
        if console.width >= _NARROW:
            columns += [TextColumn("eta"), TimeRemainingColumn(compact=True)]
        self._name = name
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task(name, total=None)
        self._progress.start()

    def update(self, done: float, total: float, what: str) -> None:
        description = f"{self._name}: {shown(what)}" if what else self._name
        self._progress.update(self._task, completed=done, total=total or None, description=description)

    def close(self) -> None:
        self._progress.stop()
