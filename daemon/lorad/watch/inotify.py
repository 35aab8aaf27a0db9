"""One inotify instance, on watchdog's bindings to the C library, that swallows nothing.

Only the bindings and the constants are watchdog's: its own reader drops the event that says that the queue
overflowed, and asks to be told of every file that is opened or read.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

from watchdog.observers.inotify_c import InotifyConstants as In
from watchdog.observers.inotify_c import WatchDescriptor, inotify_add_watch, inotify_init, inotify_rm_watch

#: What is of interest: everything that can change what a name leads to. Not opening, reading or closing what was
#: only read: our own loaders do that all day.
EVENTS = (
    In.IN_CREATE
    | In.IN_MODIFY
    | In.IN_CLOSE_WRITE
    | In.IN_ATTRIB
    | In.IN_MOVED_FROM
    | In.IN_MOVED_TO
    | In.IN_DELETE
    | In.IN_DELETE_SELF
    | In.IN_MOVE_SELF
    | In.IN_EXCL_UNLINK
)
_HEAD = struct.Struct("iIII")
_BUFFER = 1 << 18


class Event(NamedTuple):
    """What the kernel said; `wd` is -1 where it says that it dropped events."""

    wd: int
    mask: int
    name: bytes

    def has(self, *bits: int) -> bool:
        return any(self.mask & bit for bit in bits)


class Instance:
    """An inotify instance, for one thread alone."""

    def __init__(self) -> None:
        """Raises OSError: EMFILE when this user has no more instances."""
        self._fd = _checked(inotify_init())
        os.set_blocking(self._fd, False)
        os.set_inheritable(self._fd, False)

    @property
    def fd(self) -> int:
        return self._fd

    def add(self, folder: bytes, *, follow: bool = False, events: int = EVENTS) -> int:
        """Watch a folder, not what is in its folders; its watch descriptor, the same for the same inode.

        Raises OSError: ENOSPC when this user has no more watches, EACCES where it may not be read.
        """
        flags = events | In.IN_ONLYDIR | (0 if follow else In.IN_DONT_FOLLOW)
        return _checked(inotify_add_watch(self._fd, folder, flags), folder)

    def remove(self, wd: int) -> None:
        # A watch whose folder is gone has gone with it.
        inotify_rm_watch(self._fd, WatchDescriptor(wd))

    def read(self, most: int = _BUFFER) -> list[Event]:
        """What has happened since the last time; nothing if nothing has."""
        try:
            read = os.read(self._fd, most)
        except BlockingIOError:
            return []
        events, offset = [], 0
        while offset < len(read):
            wd, mask, _, length = _HEAD.unpack_from(read, offset)
            offset += _HEAD.size + length
            events.append(Event(wd, mask, read[offset - length : offset].rstrip(b"\0")))
        return events

    def close(self) -> None:
        os.close(self._fd)


def _checked(result: int, path: bytes | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
