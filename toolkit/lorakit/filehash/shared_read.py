"""One read of a file, shared by several consumers on a few threads.

Each consumer is a lane: it sees every block once, in order. The blocks lie in a small ring; one is read again
into when the last lane has left it. Reading is a task like the lanes' own, taken by whichever thread is free, so
that two cores are busy to the end although the lanes differ in speed. What hashing, reading and copying cost
happens outside of the interpreter's lock. An `Excerpt` is a lane that keeps parts of the file, so that nothing is
read twice.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from loracore.tensorfile import Source

#: Bytes of a block, and blocks of the ring: together they stay in the processor's cache.
BLOCK = 1 << 20
_RING = 8

#: Takes the next bytes of the file. The block is valid during the call alone.
Lane = Callable[[memoryview], object]


def read_once(source: Source, lanes: Sequence[Lane], threads: int, told: Callable[[int], object]) -> None:
    """Give every byte of `source` to each of `lanes`.

    `told` hears in this thread how many bytes are done; what it or a lane raises ends the reading and is raised.

    Raises:
        MalformedFile: the file became shorter.
    """
    reading = _Reading(source, lanes)
    helpers = [threading.Thread(target=reading.work, daemon=True) for _ in range(min(threads, len(lanes) + 1) - 1)]
    for helper in helpers:
        helper.start()
    try:
        reading.work(told)
    except BaseException as error:
        reading.fail(error)
        raise
    finally:
        for helper in helpers:
            helper.join()
    if reading.failure is not None:
        raise reading.failure
    told(source.size)


def behind(start: int, update: Callable[[memoryview], object]) -> Lane:
    """`update` for all that lies at `start` or behind it."""
    left = start

    def lane(block: memoryview) -> None:
        nonlocal left
        skipped = min(left, len(block))
        left -= skipped
        update(block[skipped:])

    return lane


class _Reading:
    def __init__(self, source: Source, lanes: Sequence[Lane]) -> None:
        self._source = source
        self._lanes = lanes
        self._ring = [memoryview(bytearray(min(BLOCK, source.size))) for _ in range(_RING)]
        self._blocks = -(-source.size // BLOCK)
        self._filled = 0
        self._reading = False
        #: Blocks that each lane has left behind; and whether some thread is in it.
        self._done = [0] * len(lanes)
        self._busy = [False] * len(lanes)
        self._changed = threading.Condition()
        self.failure: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self.failure = self.failure or error
            self._changed.notify_all()

    def work(self, told: Callable[[int], object] | None = None) -> None:
        """Do what there is to do until all is done. Raises only what `told` raises."""
        while (lane := self._take()) is not None:
            try:
                if lane < 0:
                    self._fill()
                else:
                    self._lanes[lane](self._block(self._done[lane]))
            except BaseException as error:  # raised again in the caller's thread
                self.fail(error)
                return
            self._leave(lane)
            if told is not None:
                told(min(self._source.size, min(self._done) * BLOCK))

    def _take(self) -> int | None:
        """The lane that is most behind, -1 for reading, or None when all is done."""
        with self._changed:
            while self.failure is None:
                behind = min(self._done)
                if behind == self._blocks:
                    return None
                ahead = self._filled - behind
                can_read = not self._reading and self._filled < self._blocks and ahead < _RING
                waiting = [
                    (done, lane)
                    for lane, done in enumerate(self._done)
                    if not self._busy[lane] and done < self._filled
                ]
                if can_read and (ahead < 2 or not waiting):
                    self._reading = True
                    return -1
                if waiting:
                    lane = min(waiting)[1]
                    self._busy[lane] = True
                    return lane
                self._changed.wait()
            return None

    def _leave(self, lane: int) -> None:
        with self._changed:
            if lane < 0:
                self._reading = False
                self._filled += 1
            else:
                self._busy[lane] = False
                self._done[lane] += 1
            self._changed.notify_all()

    def _fill(self) -> None:
        self._source.read_into(self._block(self._filled), self._filled * BLOCK)

    def _block(self, number: int) -> memoryview:
        return self._ring[number % _RING][: self._source.size - number * BLOCK]


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
        #: Bytes of the longest piece, as one that reaches into a block may begin so far before it.
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
