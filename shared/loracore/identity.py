"""When a file is the same file: what it must be for what was learnt of it to hold, in numbers that can be kept.

A file system may give a file any time and any size. SQLite and MessagePack take 64 bits, so numbers are cut to
that where they come in: two times beyond the year 2262 are the same here.
"""

from __future__ import annotations

import os

import msgspec

#: Coarser than the clock ticks that file systems use for their times, in nanoseconds.
TICK_NS = 20_000_000
#: The tick of file systems that count whole (FAT: even) seconds.
_COARSE_TICK_NS = 2_000_000_000
_LARGEST = 2**63 - 1


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Device, inode, size, mtime and ctime: what a file must be before and after it is read."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(
            status.st_dev % 2**64,
            status.st_ino % 2**64,
            bounded(status.st_size),
            bounded(status.st_mtime_ns),
            bounded(status.st_ctime_ns),
        )

    @classmethod
    def of_stored(cls, dev: int, ino: int, size: int, mtime_ns: int, ctime_ns: int) -> Identity:
        """Out of the columns that `stored` gave."""
        return cls(dev % 2**64, ino % 2**64, size, mtime_ns, ctime_ns)

    def stored(self) -> tuple[int, int, int, int, int]:
        """As SQLite keeps it, which has no unsigned numbers."""
        return signed(self.dev), signed(self.ino), self.size, self.mtime_ns, self.ctime_ns

    def renamed(self, now: Identity) -> bool:
        """Whether `now` may be the same file after it was renamed, which changes its ctime alone."""
        return self.dev == now.dev and self.lasts(now)

    def lasts(self, now: Identity) -> bool:
        """Whether `now` may be the same file in spite of its ctime, and of its device's number."""
        return (self.ino, self.size, self.mtime_ns) == (now.ino, now.size, now.mtime_ns)

    def renumbered(self, now: Identity) -> bool:
        """Whether only the device has another number: the system numbers devices anew when it starts."""
        return self.dev != now.dev and self.ctime_ns == now.ctime_ns and self.lasts(now)


class Edited(msgspec.Struct, frozen=True):
    """A file whose header alone was written anew: what its name led to before that, and what it leads to since."""

    path: bytes
    before: Identity
    after: Identity


#: Of a name whose file cannot be looked at.
UNKNOWN = Identity(0, 0, 0, 0, 0)


def tick_of(ctime_ns: int) -> int:
    """Nanoseconds within which a file's times may stay what they are although it is written to."""
    return _COARSE_TICK_NS if ctime_ns % 1_000_000_000 == 0 else TICK_NS


def bounded(number: int) -> int:
    """The number, or the nearest one of 64 bits with a sign."""
    return max(-_LARGEST - 1, min(number, _LARGEST))


def signed(number: int) -> int:
    """An unsigned 64-bit number as SQLite's signed one."""
    return number - 2**64 if number >= 2**63 else number
