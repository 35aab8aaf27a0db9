"""How far a scan, an action or a job is: one live line on standard error, by rich. Loaded for a terminal alone."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from loracore import messages
from loracore.control import DedupeProgress
from loracore.paths import shown
from loractl.view.tables import size

#: Columns of the terminal from which on the line has a time to go, and everything; of a job's shorter line.
_NARROW, _WIDE, _NARROW_JOB = 70, 100, 60


class _What(ProgressColumn):
    """What it is at. Nothing in it is taken for markup."""

    def render(self, task: object) -> Text:
        return Text(str(getattr(task, "description", "")), overflow="ellipsis", no_wrap=True)


class _Line:
    """A bar with what it is at, then these columns. `if_wide`: on a wide terminal; it vanishes at the end."""

    def __init__(
        self, what: str, *columns: ProgressColumn, if_wide: tuple[ProgressColumn, ...] = (), narrow: int = _NARROW
    ) -> None:
        console = Console(stderr=True)
        shown_columns = [SpinnerColumn(), _What(), BarColumn(bar_width=None), TaskProgressColumn(), *columns]
        if console.width >= _WIDE:
            shown_columns += if_wide
        if console.width >= narrow:
            shown_columns += [TextColumn("eta"), TimeRemainingColumn(compact=True)]
        self._progress = Progress(*shown_columns, console=console, transient=True)
        self._task = self._progress.add_task(what, total=None, files="", read="", found="")
        self._progress.start()

    def close(self) -> None:
        self._progress.stop()


def _field(name: str) -> TextColumn:
    return TextColumn(f"{{task.fields[{name}]}}")


class ScanProgress(_Line):
    """Of a scan."""

    def __init__(self) -> None:
        super().__init__(
            "Walking", _field("files"), if_wide=(_field("read"), _field("found"), TimeElapsedColumn())
        )

    def update(self, report: messages.Progress) -> None:
        elapsed = self._progress.tasks[0].elapsed or 0
        rate = f"{size(report.bytes_read / elapsed)}/s" if elapsed > 1 else ""
        self._progress.update(
            self._task,
            description="Walking" if report.walking else "Reading",
            total=None if report.walking else report.files_total,
            completed=report.files_processed,
            files=f"{report.files_processed:,}/{report.files_total:,} files",
            read=f"{size(report.bytes_read)} {rate}".strip(),
            found=f"{report.duplicates:,} duplicates",
        )


class ActProgress(_Line):
    """Of an apply or an undo."""

    def __init__(self, what: str) -> None:
        super().__init__(what, _field("files"), if_wide=(_field("read"),))

    def update(self, event: DedupeProgress) -> None:
        # Time is counted by bytes, where there are any to compare.
        by_bytes = event.bytes_total > 0
        self._progress.update(
            self._task,
            total=event.bytes_total if by_bytes else event.total,
            completed=event.bytes if by_bytes else event.done,
            files=f"{event.done:,}/{event.total:,} files",
            read=f"{size(event.bytes)} of {size(event.bytes_total)}" if by_bytes else "",
        )


class JobBar(_Line):
    """Of a job."""

    def __init__(self, name: str) -> None:
        super().__init__(name, narrow=_NARROW_JOB)
        self._name = name

    def update(self, done: float, total: float, what: str) -> None:
        description = f"{self._name}: {shown(what)}" if what else self._name
        self._progress.update(self._task, completed=done, total=total or None, description=description)
