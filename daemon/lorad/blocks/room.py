"""How much room files take together, where some of them share blocks.

Pure: it goes by what `lorad.blocks.looking` saw. Two files share what lies in the same place of the disk and of
both files, as in copies made by reflink, and in what FIDEDUPERANGE joined.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator

from lorad.blocks.extents import NOWHERE, Extent

_EXTENT = struct.Struct("=QQQ")


class Room:
    """What the files that were added so far take of the disk, each byte of it once."""

    def __init__(self) -> None:
        #: By device and distance between the place on the disk and that in the file: where intervals begin and end
        #: in the file, in turn. No two of them touch.
        self._taken: defaultdict[tuple[int, int], list[int]] = defaultdict(list)

    def add(self, dev: int, size: int, extents: bytes | None) -> int:
        """The bytes that a file takes and none of those before did; `size` where its extents are not known."""
        if not extents:
            return size
        own = 0
        for start, place, length in unpacked(extents):
            end = min(start + length, size)
            if start < end:
                own += end - start if place == NOWHERE else _take(self._taken[dev, place - start], start, end)
        return own


def packed(extents: Iterable[Extent]) -> bytes:
    """Extents as the catalogue keeps them; what lies together is one, however it was cut."""
    return b"".join(_EXTENT.pack(extent.start, extent.place, extent.length) for extent in _joined(extents))


def unpacked(extents: bytes) -> Iterator[tuple[int, int, int]]:
    """Start, place and length of each."""
    return _EXTENT.iter_unpack(extents)


def is_placed(extents: bytes) -> bool:
    """Whether each extent has a place on the disk."""
    return all(place != NOWHERE for _, place, _ in unpacked(extents))


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


def _joined(extents: Iterable[Extent]) -> Iterator[Extent]:
    last: Extent | None = None
    for extent in extents:
        if last is not None and (extent.start, extent.place) == (last.end, _following(last)):
            last = last._replace(length=last.length + extent.length)
            continue
        if last is not None:
            yield last
        last = extent
    if last is not None:
        yield last


def _following(extent: Extent) -> int:
    """The place behind it."""
    return NOWHERE if extent.place == NOWHERE else extent.place + extent.length
