"""What a scan found, as a table on a terminal, by rich."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loracore.messages import FileFailed, Summary
from loracore.paths import shown
from loractl.view.tables import size

#: Longer lists end with a word on where the rest is.
_SETS = 100
_FAILURES = 20


def show_scan(
    summary: Summary,
    found: dict[str, Any],
    failures: Sequence[FileFailed],
    *,
    folders: Sequence[str],
    state_dir: str,
) -> None:
    """The sets of duplicates, the files that failed, and the numbers.

    Paths are shown relative to the folder that was scanned, if it was one.
    """
    # Where nobody looks, lines are as long as they are.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    place = os.path.realpath(folders[0]) if len(folders) == 1 else ""
    where = f" in {shown(place)}" if place else ""
    sets = sorted(found["duplicates"].items(), key=lambda item: -_bytes(item[0]) * len(item[1]))
    if sets:
        console.print(Text(f"Files that hold the same weights{where}", style="bold"))
        console.print(_duplicates_table(sets[:_SETS], found, place))
    if len(sets) > _SETS:
        rest = shown(os.path.join(state_dir, "duplicates.json"))
        console.print(Text(f"… and {len(sets) - _SETS:,} more sets in {rest}\n"), soft_wrap=True)
    if failures:
        console.print(Text(f"Files that could not be read{where}", style="bold"))
        console.print(_failures_table(failures[:_FAILURES], place))
    if len(failures) > _FAILURES:
        rest = shown(os.path.join(state_dir, "processed.json"))
        console.print(Text(f"… and {len(failures) - _FAILURES:,} more in {rest}\n"), soft_wrap=True)
    files = f"{_count(summary.files, 'file')} in {_count(summary.groups, 'layout')}"
    duplicates = f"[bold]{_count(summary.duplicate_sets, 'set')} of duplicates[/]"
    failed = f", [red]{summary.failed:,} failed[/]" if summary.failed else ""
    console.print(f"{files}: {duplicates}, {size(summary.wasted_bytes)} could be saved{failed}")
    read = f"Read {size(summary.bytes_read)} of {size(summary.bytes_total)} in {summary.seconds:.2f} s."
    console.print(Text(f"{read} Results: {shown(state_dir)}", style="dim"), soft_wrap=True)


def _duplicates_table(sets: Sequence[tuple[str, list[str]]], found: dict[str, Any], place: str) -> Table:
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    table.add_column("same", style="cyan", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("file", overflow="fold")
    for kept, others in sets:
        table.add_row("kept", size(_bytes(kept)), Text(_relative(kept, place), style="bold"), style="green")
        for path in others:
            differs = " (other function)" if path in found.get("functions", ()) else ""
            table.add_row(found["levels"][path], size(_bytes(path)), Text(_relative(path, place) + differs))
        table.add_row()
    return table


def _failures_table(failures: Sequence[FileFailed], place: str) -> Table:
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    table.add_column("file", overflow="fold")
    table.add_column("why", style="red", overflow="fold")
    for failure in failures:
        table.add_row(Text(_relative(os.fsdecode(failure.path), place)), Text(failure.reason))
    table.add_row()
    return table


def _relative(path: str, place: str) -> str:
    return shown(os.path.relpath(path, place) if place else path)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _bytes(path: str) -> int:
    """A file's size now; 0 if it is gone."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
