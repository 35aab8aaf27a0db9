"""What became of duplicates in numbers: in a day, for the log and for subscribers, and what is put aside now.

The latter is what the status and `loractl free` show: how much, until when, and which disks it fills. No I/O and
no clock of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog
from structlog.typing import FilteringBoundLogger

from loracore.control import (
    ActionRefused,
    ActionTaken,
    ActionUndone,
    DaySummary,
    Event,
    FileFreed,
    FileGivenBack,
    Hidden,
    HiddenFile,
)
from loracore.paths import shown
from loracore.time import rfc3339
from lorad.dedupe.missed import Missed
from lorad.dedupe.standing import Standing
from lorad.watch import timed_calls


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
        since = rfc3339(self._since, "seconds")
        summary = DaySummary(since, dict(sorted(self._done.items())), self._bytes, self._refused, self._undone)
        self._since = now
        self._begin()
        return summary if summary.done or summary.refused or summary.undone else None

    def _begin(self) -> None:
        self._done: Counter[str] = Counter()
        self._bytes = self._refused = self._undone = 0


class Reports:
    """Says what happened, in the log and by `tell`, and once a day what became of it all. From any thread."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._log: FilteringBoundLogger = structlog.get_logger()
        self._lock = threading.Lock()
        self._day = Day(time.time())

    def tell(self, event: Event) -> None:
        match event:
            case ActionTaken(number, action, kept, path):
                self._log.info("acted", id=number, action=action, kept=kept, path=path, bytes=event.bytes)
            case ActionRefused(action, kept, path, reason):
                self._log.warning("not acted", action=action, kept=kept, path=path, reason=reason)
            case ActionUndone(number, path):
                self._log.info("undone", id=number, path=path)
            case FileFreed(number, path, size):
                self._log.info("freed", id=number, path=path, bytes=size)
            case FileGivenBack(number, path, name):
                self._log.info("given back", id=number, path=path, shown=name)
        if isinstance(event, ActionTaken | ActionRefused | ActionUndone):
            with self._lock:
                self._day.add(event)
        self._tell(event)

    def end_day(self) -> None:
        """Sum up the day, if it is over."""
        with self._lock:
            summary = self._day.ended(time.time())
        if summary is not None:
            counts = {"done": summary.done, "refused": summary.refused, "undone": summary.undone}
            self._log.info("the day", bytes=summary.bytes, **counts)
            self._tell(summary)


#: What is said of a hidden file that no action of the journal has hidden.
UNKNOWN = "it is in no journal here: it is given back when it is missed, and never removed"
#: Part of a disk that is free, below which status says that it is nearly full.
_FULL = 0.05


def sum_up(missed: Missed, ran: float, roots: Sequence[str]) -> Hidden:
    """All of it. `ran`: seconds that lorad has run."""
    everything = list(missed.held)
    held = [one for one in everything if one.id > 0]
    due = [left for one in held if (left := missed.freeing.after(one, ran)) is not None]
    waiting = [one for one in held if one.state == "waiting"]
    return Hidden(
        len(held),
        sum(one.bytes for one in held),
        rfc3339(time.time() + min(due)) if due else "",
        len(waiting),
        waiting[0].text if waiting else "",
        _full_disks(held, roots) if held else [],
        len(everything) - len(held),
    )


def list_files(missed: Missed, ran: float, ids: Sequence[int] | None) -> list[HiddenFile]:
    """What these actions, or all, have hidden, the one that is due first in front.

    Among all are those that no action of the journal has hidden, of number 0: nothing is done to them by itself
    or on request, but that they are given back when they are missed.
    """
    found = []
    for one in list(missed.held):
        if ids is not None and one.id not in ids:
            continue
        left = missed.freeing.after(one, ran)
        date = "" if left is None else rfc3339(time.time() + left)
        order = float("inf") if left is None else left
        text = one.text if one.id > 0 else UNKNOWN
        file = HiddenFile(max(one.id, 0), one.action, one.kept, one.path, one.bytes, one.state, date, text)
        found.append((order, one.id, file))
    return [file for *_, file in sorted(found, key=lambda each: each[:2])]


def _full_disks(held: Sequence[Standing], roots: Sequence[str]) -> list[str]:
    """Disks that are nearly full, and would not be without what is put aside there."""
    found = []
    for root in roots:
        inside = os.path.join(timed_calls.real(os.fsencode(root)), b"")
        size = sum(one.bytes for one in held if one.path.startswith(inside))
        try:
            room = timed_calls.do(os.fsencode(root), os.statvfs, root)
        except OSError:
            continue
        free, wanted = room.f_bavail * room.f_frsize, int(_FULL * room.f_blocks * room.f_frsize)
        if free < wanted <= free + size:
            found.append(f"{shown(root)}: {free >> 20} MiB are free; `loractl free` gives {size >> 20} MiB back")
    return found
