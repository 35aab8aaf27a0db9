"""Where a file's blocks lie on the disk, and which of them two files share already (FIEMAP).

A file of the catalogue is looked at in the place where it was found, if its file system can share blocks at all.
Source: Documentation/filesystems/fiemap.rst of the Linux kernel.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from lorad.blocks.usage import NOWHERE, Extent, packed
from lorad.watch.mounts import find, read_mounts

#: File systems that can share blocks between files of this machine, and tell which they do.
SHARING = frozenset({b"bcachefs", b"btrfs", b"xfs"})
#: A file in more pieces than this, for which the core would stand still for more than a second, is not looked at
#: to its end: it counts by its size.
_MOST = 1 << 18
_FS_IOC_FIEMAP = 0xC020660B
_HEADER = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQQQIIII")
_FLAG_SYNC = 1
#: Extents asked for at once.
_COUNT = 512
_LAST = 0x1
#: Unknown, not allocated yet, or inside the inode: such an extent has no place to compare.
_NOWHERE = 0x2 | 0x4 | 0x200
#: Compressed (Btrfs), or encrypted.
_ENCODED = 0x8
#: Some other file, or a snapshot, has the same blocks.
_SHARED = 0x2000
_END = (1 << 64) - 1
#: No disk is as large, so no plain extent has a distance from here on.
_WHOLE = 1 << 62


def extents(fd: int) -> Iterator[Extent]:
    """The file's extents that have a place, in order; what is not written yet is written first. Holes have none.

    Raises OSError with EOPNOTSUPP or ENOTTY where the file system does not tell (tmpfs, many FUSE).
    """
    return (extent for extent in _mapped(fd, _FLAG_SYNC) if extent.distance != NOWHERE)


def extents_now(fd: int, most: int) -> Iterator[Extent]:
    """All extents as they are, those that are not written yet at `NOWHERE`.

    What is written anew over blocks that other files have is told at its old place until it is on the disk. Raises
    OSError as `extents`, and with EFBIG where there are more than `most`.
    """
    for number, extent in enumerate(_mapped(fd, 0)):
        if number == most:
            raise OSError(errno.EFBIG, f"more than {most} extents")
        yield extent


def _mapped(fd: int, how: int) -> Iterator[Extent]:
    start = 0
    request = bytearray(_HEADER.size + _COUNT * _EXTENT.size)
    while True:
        _HEADER.pack_into(request, 0, start, _END - start, how, 0, _COUNT, 0)
        fcntl.ioctl(fd, _FS_IOC_FIEMAP, request)
        mapped = _HEADER.unpack_from(request)[3]
        found = bytes(request[_HEADER.size : _HEADER.size + mapped * _EXTENT.size])
        for begin, place, length, _, _, flags, *_ in _EXTENT.iter_unpack(found):
            yield Extent(begin, length, _distance(begin, place, flags), bool(flags & _SHARED))
            start = begin + length
            if flags & _LAST:
                return
        if not mapped:
            return


def _distance(begin: int, place: int, flags: int) -> int:
    if flags & _NOWHERE:
        return NOWHERE
    # Of any part of a compressed extent, the place that is told is where the whole of it begins.
    return place | _WHOLE if flags & _ENCODED else place - begin


def own_ranges(kept: int, gone: int) -> list[tuple[int, int]]:
    """The ranges (start, length) of `gone` whose blocks are not those of the same range of `kept`.

    Holes are left out: they take no space. Empty also where all is shared. Raises OSError as `extents` does.
    """
    others = list(extents(kept)) if os.fstat(kept).st_dev == os.fstat(gone).st_dev else []
    size = os.fstat(gone).st_size
    ranges: list[tuple[int, int]] = []
    position = 0
    for extent in extents(gone):
        begin = extent.start
        while position < len(others) and others[position].end <= begin:
            position += 1
        at = position
        while begin < extent.end:
            shared = others[at] if at < len(others) else None
            if shared is None or shared.start >= extent.end:
                _add(ranges, begin, extent.end)
                break
            if shared.start > begin:
                _add(ranges, begin, shared.start)
                begin = shared.start
            end = min(shared.end, extent.end)
            if shared.distance != extent.distance:
                _add(ranges, begin, end)
            begin = end
            at += 1
    return [(start, min(end, size) - start) for start, end in ranges if start < size]


def unshared_bytes(fd: int) -> int:
    """Bytes of a file in blocks that it shares with no other, which are free once it is gone. Holes have none.

    All its bytes where the file system does not tell.
    """
    size = os.fstat(fd).st_size
    try:
        found = [extent for extent in _mapped(fd, _FLAG_SYNC) if not extent.shared]
    except OSError:
        return size
    return sum(min(extent.end, size) - extent.start for extent in found if extent.start < size)


def _add(ranges: list[tuple[int, int]], begin: int, end: int) -> None:
    """Append a range, joined with the one before where they touch."""
    if ranges and ranges[-1][1] == begin:
        ranges[-1] = (ranges[-1][0], end)
    else:
        ranges.append((begin, end))


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
