"""How much room files take together, where some of them share blocks.

Pure: it goes by what `lorad.blocks.extents` saw. Two files share what lies in the same place of the disk and of
both files, as in copies made by reflink, and in what FIDEDUPERANGE joined.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import NamedTuple

from blake3 import blake3

from lorad.blocks.extents import NOWHERE, Extent, extents_now
from lorad.watch.mounts import find, read_mounts

#: Pieces of a file that are kept one by one; the most that a file costs is 12 KiB.
MOST = 512
#: What follows, and the file system or, before a digest, the bytes that the file takes.
_HEADER = struct.Struct("=cQ")
_PIECES, _DIGEST = b"p", b"d"
#: Start, length and distance.
_PIECE = struct.Struct("=QQq")


class Room:
    """What the files that were added so far take of the disk, each byte of it once."""

    def __init__(self) -> None:
        #: By file system and distance between the place on the disk and that in the file: where intervals begin
        #: and end in the file, in turn. No two of them touch.
        self._taken: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._digests: set[bytes] = set()

    def add(self, size: int, extents: bytes | None) -> int:
        """The bytes that a file takes and none of those before did; `size` where its extents are not known.

        They are not where a catalogue has them in another form, either.
        """
        if extents is None or extents[:1] not in (_PIECES, _DIGEST):
            return size
        kind, number = _HEADER.unpack_from(extents)
        if kind == _DIGEST:
            return self._add_digest(extents[_HEADER.size :], number)
        own = 0
        for start, length, distance in unpacked(extents):
            end = start + length
            own += length if distance == NOWHERE else _take(self._taken[number, distance], start, end)
        return own

    def _add_digest(self, digest: bytes, taken: int) -> int:
        if digest in self._digests:
            return 0
        if digest:
            self._digests.add(digest)
        return taken


def packed(file_system: int, size: int, extents: Iterable[Extent], most: int = MOST) -> bytes:
    """The extents of a file as the catalogue keeps them; what lies together is one, however it was cut.

    Of more than `most` pieces only a digest is kept: two such files are found to share all or nothing.
    """
    pieces = _joined(extents, size)
    first = list(islice(pieces, most + 1))
    if len(first) > most:
        return _digest(file_system, chain(first, pieces))
    return _HEADER.pack(_PIECES, file_system) + b"".join(_PIECE.pack(*piece) for piece in first)


def unpacked(extents: bytes) -> Iterator[tuple[int, int, int]]:
    """Start, length and distance of each piece, where they are kept one by one."""
    return _PIECE.iter_unpack(extents[_HEADER.size :])


def _digest(file_system: int, pieces: Iterable[tuple[int, int, int]]) -> bytes:
    """Empty where some piece has no place: such a file shares nothing with one that looks the same."""
    hasher, taken, placed = blake3(file_system.to_bytes(8)), 0, True
    for piece in pieces:
        hasher.update(_PIECE.pack(*piece))
        taken += piece[1]
        placed &= piece[2] != NOWHERE
    return _HEADER.pack(_DIGEST, taken) + (hasher.digest() if placed else b"")


def _take(bounds: list[int], start: int, end: int) -> int:
    """Add an interval to others; how much of it was in none of them."""
    first, after = bisect_left(bounds, start), bisect_right(bounds, end)
    inside = bounds[first:after]
    if first % 2:
        inside.insert(0, start)
    if after % 2:
        inside.append(end)
    covered = sum(inside[1::2]) - sum(inside[::2])
    bounds[first:after] = [start] * (1 - first % 2) + [end] * (1 - after % 2)
    return end - start - covered


def _joined(extents: Iterable[Extent], size: int) -> Iterator[tuple[int, int, int]]:
    """Start, length and distance, up to the end of the file: what is reserved behind it comes and goes."""
    start, end, distance = 0, 0, NOWHERE
    for extent in extents:
        until = min(extent.end, size)
        if until <= extent.start:
            continue
        if (extent.start, extent.distance) == (end, distance):
            end = until
            continue
        if start < end:
            yield start, end - start, distance
        start, end, distance = extent.start, until, extent.distance
    if start < end:
        yield start, end - start, distance


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
