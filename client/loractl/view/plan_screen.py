"""What needs rich: a plan and a history as they are seen on a terminal of any width."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loracore.control import HistoryEntry, Planned
from loracore.paths import shown
from loractl.view.plan import by_kept, common_folder, plan_words
from loractl.view.tables import count, size

#: Sets, and actions of the history, that are shown unless all are asked for.
_SETS, _ACTIONS = 20, 50
#: Columns of the terminal from which on there is a column for everything.
_WIDE = 100
_ACTION_STYLES = {"delete": "red", "quarantine": "yellow"}


def show_plan(plan: Planned, *, everything: bool) -> None:
    """A table by kept files, and the sum. Paths are shown relative to the folder that they all lie in."""
    console = Console(highlight=False)
    sets = by_kept(plan)
    listed = sets if everything else sets[:_SETS]
    place = common_folder(path for one in listed for path in (one.kept, *(step.path for step in one.steps)))
    if place:
        console.print(Text(f"in {shown(place)}", style="dim"), soft_wrap=True)
    if listed:
        wide = console.width >= _WIDE
        table = _table("do", *(("same",) if wide else ()), "saves", "file", *(("the kept one",) if wide else ()))
        for one in listed:
            saved = Text(size(one.bytes), style="bold")
            kept = Text(_relative(one.kept, place), style="bold green")
            table.add_row(Text("keep", style="green"), *((Text(),) if wide else ()), saved, kept)
            for step in one.steps:
                do = Text(step.action, style=_ACTION_STYLES.get(step.action, "cyan"))
                # Each name of a file has a row; the bytes are in the sum above.
                freed = Text(size(step.bytes) if len(one.steps) > 1 and step.bytes else "", style="dim")
                file = Text(_relative(step.path, place))
                if wide:
                    table.add_row(do, Text(step.level), freed, file, Text(step.why, style="dim"))
                else:
                    file.append(f"\n{step.level}; the kept one {step.why}", style="dim")
                    table.add_row(do, freed, file)
        console.print(table)
    if len(listed) < len(sets):
        rest = sets[len(listed) :]
        more = size(sum(one.bytes for one in rest))
        words = f"… and {count(len(rest), 'more set')}, {more}; --all shows them"
        console.print(Text(words, style="dim"))
    if listed:
        console.print()
    head, *others = plan_words(plan)
    console.print(Text(head, style="bold"))
    for line in others:
        console.print(Text(line, style="dim"))


def show_history(entries: Sequence[HistoryEntry], *, everything: bool) -> None:
    """The newest actions, oldest first."""
    console = Console(highlight=False)
    listed = entries if everything else entries[-_ACTIONS:]
    wide = console.width >= _WIDE
    place = common_folder(path for entry in listed for path in (entry.path, entry.kept))
    if place:
        console.print(Text(f"in {shown(place)}", style="dim"), soft_wrap=True)
    if len(listed) < len(entries):
        console.print(Text(f"{len(entries) - len(listed):,} earlier ones; --all shows them", style="dim"))
    table = _table("id", *(("time",) if wide else ()), "action", "state", "bytes", "file")
    for entry in listed:
        when = entry.time[:19].replace("T", " ")
        file = Text(_relative(entry.path, place))
        kept = f"same as {_relative(entry.kept, place)}"
        file.append(f"\n{kept}" if wide else f"\n{kept}\n{when}", style="dim")
        style = {"undone": "dim", "done": "green"}.get(entry.state, "red")
        cells = [Text(entry.action), Text(entry.state, style=style), Text(size(entry.bytes)), file]
        table.add_row(Text(str(entry.id), style="bold"), *((Text(when),) if wide else ()), *cells)
    console.print(table)


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in names:
        if name == "file":
            table.add_column(name, overflow="fold")
        else:
            right = name in ("saves", "id", "bytes")
            table.add_column(name, justify="right" if right else "left", no_wrap=name != "the kept one")
    return table


def _relative(path: bytes, place: bytes) -> str:
    return shown(os.path.relpath(path, place) if place else path)
