"""Parts of a file that are kept while all of it goes by, so that nothing is read twice."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple


class Piece(NamedTuple):
    """`length` bytes of the file from `start`, wanted at `place` of the excerpt."""

    start: int
    length: int
    place: int


class Excerpt:
    """Bytes gathered from anywhere in a file that is fed in order."""

    def __init__(self, length: int, pieces: Iterable[Piece]) -> None:
        self.data = bytearray(length)
        self._pieces = sorted(pieces)
        self._starts = [piece.start for piece in self._pieces]
        #: Bytes of the longest piece, which tells how far back one may begin that reaches into a block.
        self._longest = max((piece.length for piece in self._pieces), default=0)
        self._position = 0

    def feed(self, block: memoryview) -> None:
        begin, end = self._position, self._position + len(block)
        self._position = end
        index = bisect_right(self._starts, begin - self._longest)
        while index < len(self._pieces) and self._starts[index] < end:
            start, length, place = self._pieces[index]
            first, last = max(start, begin), min(start + length, end)
            if first < last:
                self.data[place + first - start : place + last - start] = block[first - begin : last - begin]
            index += 1
