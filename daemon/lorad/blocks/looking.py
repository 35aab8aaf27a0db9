"""Looking up where the blocks of known files lie, on file systems where files can share them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from lorad.blocks.extents import extents_now
from lorad.blocks.room import packed
from lorad.watch.mounts import find, read_mounts

#: File systems that can share blocks between files of this machine, and tell which they do.
SHARING = frozenset({b"bcachefs", b"btrfs", b"xfs"})
#: A file in more pieces than this, for which the core would stand still for more than a second, is not looked at
#: to its end: it counts by its size.
_MOST = 1 << 18


class Place(NamedTuple):
    """Where a file was found.

    `path`: a name of it without links. `file_system`: which it lies on, if files can share blocks there; all
    subvolumes of a Btrfs are one. `facts`: its device, inode and size.
    """

    path: bytes
    file_system: int | None
    facts: tuple[int, int, int]


class FileSystems:
    """What is mounted where, and where folders lie, as it is now; for one look at many files."""

    def __init__(self) -> None:
        self._mounts = read_mounts()
        #: Folders without links, by name.
        self._real: dict[bytes, bytes] = {}
        #: By device.
        self._found: dict[int, int | None] = {}

    def place(self, paths: Sequence[bytes], dev: int, ino: int, size: int) -> Place:
        """Where this file is, by the first of its names that leads to it. It opens nothing.

        Raises FileNotFoundError where none does, as while its disk is not mounted.
        """
        facts = dev, ino, size
        for name in paths:
            path = self._without_links(name)
            with suppress(OSError):
                status = os.lstat(path)
                if stat.S_ISLNK(status.st_mode):
                    path = os.path.realpath(path)
                    status = os.lstat(path)
                if _facts(status) == facts:
                    return Place(path, self._file_system(path, dev), facts)
        raise _away(paths)

    def _without_links(self, name: bytes) -> bytes:
        """A name in its real folder; it may be a link itself."""
        folder, base = os.path.split(name)
        real = self._real.get(folder)
        if real is None:
            real = self._real[folder] = os.path.realpath(folder)
        return os.path.join(real, base)

    def _file_system(self, path: bytes, dev: int) -> int | None:
        if dev not in self._found:
            mount = find(self._mounts, path)
            self._found[dev] = mount.device if mount is not None and mount.kind in SHARING else None
        return self._found[dev]


def look(place: Place) -> bytes | None:
    """The extents of the file at this place, packed; None where they cannot be told, or are too many.

    What is not on the disk yet is not written for it; it shares nothing. Raises OSError where the file is not
    there any more, or cannot be opened.
    """
    if place.file_system is None:
        return None
    fd = os.open(place.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if _facts(status) != place.facts:
            raise _away([place.path])
        try:
            return packed(place.file_system, status.st_size, extents_now(fd, _MOST))
        except OSError:
            return None
    finally:
        os.close(fd)


def _facts(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_size


def _away(paths: Sequence[bytes]) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "not there, or another file now", *paths[:1])
