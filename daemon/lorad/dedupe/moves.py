"""Copies that may be half of a move: nobody is to act on them before the other half is done.

`mv` from one file system to another copies a whole tree, and then removes what it was copied from. Who lets a
copy go in between, as the original is there, has let the last one go a moment later. Such a copy has the mtime of
what it was made from, where a download has its own. It waits until no more of its kind came for an hour; `mv` does
not need so long for one file, and copies nothing within a file system.
"""

from __future__ import annotations

from lorad.dedupe.plan import Step

#: Seconds without another such copy.
_QUIET = 3600.0
#: Nanoseconds by which file systems may round an mtime off, FAT most of all.
_ROUNDED = 2_000_000_000


class Moves:
    """Times are those of the day, in nanoseconds, as ctime is."""

    def __init__(self) -> None:
        #: The newest ctime of such a copy.
        self._newest = 0

    def goes_on(self, step: Step, now: int) -> bool:
        """Whether the files of a step may be the two halves of a move."""
        gone, kept = step.gone, step.keeper
        if gone.dev == kept.dev or abs(gone.mtime_ns - kept.mtime_ns) >= _ROUNDED:
            return False
        self._newest = max(self._newest, min(now, max(gone.ctime_ns, kept.ctime_ns)))
        return self.seconds_left(now) > 0

    def seconds_left(self, now: int) -> float:
        """How long they have to wait, if no more come."""
        return max(0.0, _QUIET - (now - self._newest) / 1e9)
