"""What a file must be for what was learnt of it to hold, in numbers that every part can keep.

A file system may give a file any time and any size. SQLite and MessagePack take 64 bits, so numbers are cut to
that where they come in: two times beyond the year 2262 are the same here.
"""

from __future__ import annotations

import os

import msgspec

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
        return (self.dev, self.ino, self.size, self.mtime_ns) == (now.dev, now.ino, now.size, now.mtime_ns)


def bounded(number: int) -> int:
    """The number, or the nearest one of 64 bits with a sign."""
    return max(-_LARGEST - 1, min(number, _LARGEST))


def signed(number: int) -> int:
    """An unsigned 64-bit number as SQLite's signed one."""
    return number - 2**64 if number >= 2**63 else number
