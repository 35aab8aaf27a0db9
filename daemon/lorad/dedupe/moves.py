"""Copies that may be half of a move: nobody is to let one go for good before the other half is done.

`mv` to another file system, or to another mount of the same, copies a whole tree and then removes what it was
copied from. Who lets a copy go in between, as the original is there, has let the last one go a moment later. Such
a copy has the mtime of what it was made from, where a download has its own. On another file system it waits until
no more of its kind came for an hour; and it is never deleted, nor replaced by a symbolic link, but put into
quarantine, from where it comes back although the other one is gone.
"""

from __future__ import annotations

from collections.abc import Iterable

from lorad.dedupe.plan import Step

#: Seconds without another such copy.
_QUIET = 3600.0
#: Nanoseconds by which file systems may round an mtime off, FAT most of all.
_ROUNDED = 2_000_000_000


class Moves:
    """Times are those of the day, in nanoseconds, as ctime is."""

    def __init__(self) -> None:
        #: The newest ctime of a copy on another file system.
        self._newest = 0

    def going_on(self, steps: Iterable[Step], now: int) -> list[Step]:
        """Those of these steps that have to wait, as their files may be the two halves of a move."""
        copies = [step for step in steps if step.gone.dev != step.keeper.dev and _is_copy(step)]
        newest = (max(step.gone.ctime_ns, step.keeper.ctime_ns) for step in copies)
        self._newest = max(self._newest, *(min(now, ctime_ns) for ctime_ns in newest), 0)
        return copies if self.seconds_left(now) > 0 else []

    def seconds_left(self, now: int) -> float:
        """How long they have to wait, if no more come."""
        return max(0.0, _QUIET - (now - self._newest) / 1e9)


def undoably(step: Step) -> Step:
    """The same step, but so that what goes comes back whatever becomes of the kept file, where that may go too."""
    final = step.action in ("delete", "symlink")
    return step._replace(action="quarantine") if final and _is_copy(step) else step


def _is_copy(step: Step) -> bool:
    return abs(step.gone.mtime_ns - step.keeper.mtime_ns) < _ROUNDED
