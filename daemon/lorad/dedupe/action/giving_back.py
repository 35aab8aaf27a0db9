"""Giving hidden files back, and undoing actions, many at once."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from lorad.dedupe.action import quarantine, undo
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.hidden import path_in, result_of
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.order import HELD, Progress, Result, Side, reason_of
from lorad.dedupe.action.place import reach, sync_all
from lorad.dedupe.action.recovery import TROUBLE, settle
from lorad.dedupe.action.remake import remake


def undo_all(
    context: Context, numbers: Sequence[int], sources: Mapping[int, Sequence[Side]], progress: Progress
) -> list[Result]:
    """See `Actor.undo`. Raises sqlite3.Error."""
    results: list[Result] = []
    entries = [entry for number in numbers if (entry := context.journal.get(number))]
    for held, group in _groups(entries, lambda entry: _is_held(context, entry)):
        if held:
            results += show_all(context, group, undoing=True)
        else:
            results += _undo(context, group, sources, progress)
    return results


def _is_held(context: Context, entry: Entry) -> bool:
    """Whether the file of an action is hidden, so that a rename brings it back."""
    return entry.state in HELD or (entry.state == "lost" and os.path.lexists(path_in(context, entry)))


def _groups(entries: Iterable[Entry], is_held: Callable[[Entry], bool]) -> Iterator[tuple[bool, list[Entry]]]:
    """Entries that may be undone together, in their order: no path in two, and none that was kept for another."""
    group: list[Entry] = []
    paths: set[bytes] = set()
    held = False
    for entry in entries:
        mine = {entry.gone.path, entry.kept.path}
        if group and (is_held(entry) != held or not paths.isdisjoint(mine)):
            yield held, group
            group, paths = [], set()
        held = is_held(entry)
        group.append(entry)
        paths.add(entry.gone.path)
    if group:
        yield held, group


def _undo(
    context: Context, entries: Sequence[Entry], sources: Mapping[int, Sequence[Side]], progress: Progress
) -> list[Result]:
    """Undo those whose file is not hidden any more."""
    results = []
    freed: list[tuple[Entry, Sequence[Side]]] = []
    for entry in entries:
        if entry.state in ("undone", "given_back", "refused"):
            results.append(result_of(context, entry, text=f"it is {entry.state} already", state="nothing"))
        elif not entry.kind.hides:
            results.append(_unshare(context, entry))
        else:
            freed.append((entry, sources.get(entry.id, ())))
    for entry, path, trouble in remake(context, freed, progress) if freed else ():
        if trouble is None:
            results.append(result_of(context, entry, shown=path))
        else:
            results.append(result_of(context, entry, text=reason_of(trouble), state="refused"))
    return results


def _unshare(context: Context, entry: Entry) -> Result:
    try:
        undo.refuse_covered(context, entry)
        return undo.unshare(context, entry).result()
    except TROUBLE as error:
        now = context.journal.get(entry.id)
        if now is not None and now.state == "undoing":
            with suppress(*TROUBLE, sqlite3.Error), reach(entry.gone.root, entry.gone.path) as reached:
                settle(context, now, reached, reason_of(error))
        return result_of(context, entry, text=reason_of(error), state="refused")


def show_all(context: Context, entries: Sequence[Entry], *, undoing: bool) -> list[Result]:
    """Give what these actions have put aside its names back; what cannot be is `refused`, with the reason."""
    shown: list[tuple[Entry, bytes]] = []
    failed: list[Result] = []
    folders: list[int] = []
    for entry in entries:
        try:
            after, path, opened = undo.show(context, entry, undo=undoing)
        except TROUBLE as error:
            failed.append(result_of(context, entry, text=reason_of(error), state="refused"))
            continue
        shown.append((after, path))
        folders += opened
    try:
        sync_all(folders)
    finally:
        for fd in folders:
            os.close(fd)
    context.at("shown synced")
    results = [result_of(context, after, shown=path) for after, path in shown]
    # A full disk of the journal keeps no file back: `record_shown` writes it down later.
    with suppress(sqlite3.Error):
        context.journal.update_all([after for after, _ in shown])
        context.at("shown noted")
        for after, _ in shown:
            quarantine.clear(context, after)
    return results + failed
