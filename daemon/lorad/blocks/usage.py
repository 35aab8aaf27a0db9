"""How much room files take together, where some of them share blocks. No I/O: it counts what `extents` saw.

Two files share what lies in the same place of the disk and of both files, as in copies made by reflink, and in
what FIDEDUPERANGE joined.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

from blake3 import blake3

#: The distance of an extent that has no place, or none yet: it shares its blocks with no other.
NOWHERE = (1 << 63) - 1
#: Pieces of a file that are kept one by one; the most that a file costs is 12 KiB.
MOST = 512
#: What follows, and the file system or, before a digest, the bytes that the file takes.
_HEADER = struct.Struct("=cQ")
_PIECES, _DIGEST = b"p", b"d"
#: Start, length and distance.
_PIECE = struct.Struct("=QQq")


class Extent(NamedTuple):
    """Bytes of a file that lie together; `shared` with another file.

    `distance`: of their place on the disk from that in the file. Two files share the bytes that have one distance
    in both, at the same place of both.
    """

    start: int
    length: int
    distance: int
    shared: bool = False

    @property
    def end(self) -> int:
        return self.start + self.length


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
