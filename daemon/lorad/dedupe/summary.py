"""What became of duplicates in numbers: in a day, for the log and for subscribers, and what is put aside now.

The latter is what the status and `loractl free` show: how much, until when, and which disks it fills. No I/O and
no clock of its own.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from loracore.control import ActionRefused, ActionTaken, ActionUndone, DaySummary, Hidden, HiddenFile
from loracore.paths import shown
from lorad.dedupe.history import rfc3339
from lorad.dedupe.returns import Returns, Standing
from lorad.watch import calls


class Day:
    """Counts events until the local date changes. Times are seconds since the epoch."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._begin()

    def add(self, event: ActionTaken | ActionRefused | ActionUndone) -> None:
        match event:
            case ActionTaken():
                self._done[event.action] += 1
                self._bytes += event.bytes
            case ActionRefused():
                self._refused += 1
            case ActionUndone():
                self._undone += 1

    def ended(self, now: float) -> DaySummary | None:
        """The day that is over, once; None while it lasts, and for one on which nothing happened."""
        # Also when the clock was put back: then the day is over as well.
        if datetime.fromtimestamp(now).date() == datetime.fromtimestamp(self._since).date():
            return None
        since = datetime.fromtimestamp(self._since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        summary = DaySummary(since, dict(sorted(self._done.items())), self._bytes, self._refused, self._undone)
        self._since = now
        self._begin()
        return summary if summary.done or summary.refused or summary.undone else None

    def _begin(self) -> None:
        self._done: Counter[str] = Counter()
        self._bytes = self._refused = self._undone = 0


#: Part of a disk that is free, below which status says that it is nearly full.
_FULL = 0.05


def sum_up(returns: Returns, ran: float, roots: Sequence[str]) -> Hidden:
    """All of it. `ran`: seconds that lorad has run."""
    held = [one for one in returns.held if one.id > 0]
    if not held:
        return Hidden()
    due = [left for one in held if (left := returns.due(one, ran)) is not None]
    waiting = [one for one in held if one.state == "waiting"]
    return Hidden(
        len(held),
        sum(one.bytes for one in held),
        rfc3339(time.time() + min(due)) if due else "",
        len(waiting),
        waiting[0].text if waiting else "",
        _full_disks(held, roots),
    )


def list_files(returns: Returns, ran: float, ids: Sequence[int] | None) -> list[HiddenFile]:
    """What these actions, or all, have put aside, the one that is due first in front."""
    found = []
    for one in list(returns.held):
        if one.id < 0 or (ids is not None and one.id not in ids):
            continue
        left = returns.due(one, ran)
        date = "" if left is None else rfc3339(time.time() + left)
        order = float("inf") if left is None else left
        file = HiddenFile(one.id, one.action, one.kept, one.path, one.bytes, one.state, date, one.text)
        found.append((order, one.id, file))
    return [file for *_, file in sorted(found)]


def _full_disks(held: Sequence[Standing], roots: Sequence[str]) -> list[str]:
    """Disks that are nearly full, and would not be without what is put aside there."""
    found = []
    for root in roots:
        inside = os.path.join(calls.real(os.fsencode(root)), b"")
        size = sum(one.bytes for one in held if one.path.startswith(inside))
        try:
            room = calls.do(os.fsencode(root), os.statvfs, root)
        except OSError:
            continue
        free, wanted = room.f_bavail * room.f_frsize, int(_FULL * room.f_blocks * room.f_frsize)
        if free < wanted <= free + size:
            found.append(f"{shown(root)}: {free >> 20} MiB are free; `loractl free` gives {size >> 20} MiB back")
    return found
