"""What people see: tables and progress bars on a terminal. Loaded only where somebody looks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from loracore import messages
from loracore.messages import FileFailed, Summary
from loracore.paths import shown

#: Longer lists end with a word on where the rest is.
_SETS = 100
_FAILURES = 20


class ScanProgress:
    """The live line of a scan, on standard error."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[files]}"),
            TextColumn("{task.fields[read]}"),
            TextColumn("[progress.elapsed]{task.fields[found]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("Walking", total=None, files="", read="", found="")
        self._progress.start()

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

    def close(self) -> None:
        self._progress.stop()


def show_scan(summary: Summary, found: dict[str, Any], failures: Sequence[FileFailed], state_dir: str) -> None:
    """The sets of duplicates, the files that failed, and the numbers."""
    console = Console(highlight=False)
    sets = found["duplicates"]
    if sets:
        console.print(_duplicates_table(sets, found["levels"]))
    if len(sets) > _SETS:
        console.print(
            f"… and {len(sets) - _SETS:,} more sets in {shown(os.path.join(state_dir, 'duplicates.json'))}"
        )
    if failures:
        console.print(_failures_table(failures))
    if len(failures) > _FAILURES:
        console.print(
            f"… and {len(failures) - _FAILURES:,} more in {shown(os.path.join(state_dir, 'processed.json'))}"
        )
    console.print(
        f"{summary.files:,} files in {summary.groups:,} layouts: "
        f"[bold]{summary.duplicate_sets:,} sets of duplicates[/], {size(summary.wasted_bytes)} could be saved"
        + (f", [red]{summary.failed:,} failed[/]" if summary.failed else "")
        + "."
    )
    console.print(
        f"Read {size(summary.bytes_read)} of {size(summary.bytes_total)} in {summary.seconds:.2f} s. "
        f"Results: {shown(state_dir)}",
        style="dim",
        soft_wrap=True,
    )


def _duplicates_table(sets: dict[str, list[str]], levels: dict[str, str]) -> Table:
    table = Table(title="Files that hold the same weights", title_justify="left", show_lines=False, box=None)
    table.add_column("same", style="cyan", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("file", overflow="fold")
    for kept, others in list(sets.items())[:_SETS]:
        table.add_row("", _size_of(kept), Text(shown(kept), style="bold"))
        for number, path in enumerate(others, start=1):
            last = number == len(others)
            table.add_row(
                levels[path], _size_of(path), Text(f"{'└' if last else '├'} {shown(path)}"), end_section=last
            )
        table.add_row()
    return table


def _failures_table(failures: Sequence[FileFailed]) -> Table:
    table = Table(title="Files that could not be read", title_justify="left", box=None)
    table.add_column("file", overflow="fold")
    table.add_column("reason", style="red", overflow="fold")
    for failure in failures[:_FAILURES]:
        table.add_row(Text(shown(failure.path)), Text(failure.reason))
    return table


def _size_of(path: str) -> str:
    try:
        return size(os.lstat(path).st_size)
    except OSError:
        return "gone"


def size(count: float) -> str:
    """Bytes in decimal units, as disks are sold and as file managers show them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
