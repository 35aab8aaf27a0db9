"""The difference of a layer as a matrix whose rows come in pieces: from memory, or from the files at each pass.

A convolution's kernel is flattened: what belongs to an output is a row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorakit.difference.measure import Buffers, differences
from lorakit.difference.pairs import Pair
from lorakit.models.weights import Weights

Singles = NDArray[np.float32]
#: Entries of a piece that is read again at each pass.
_PIECE = 1 << 23


class Rows:
    """A matrix in float32. `pieces` gives all of its rows once, in order; a piece is valid until the next one."""

    def __init__(
        self, shape: tuple[int, int], pieces: Callable[[], Iterator[Singles]], whole: Singles | None
    ) -> None:
        self.shape = shape
        self.pieces = pieces
        #: All of it, where it is in memory.
        self.whole = whole

    def on(self, arrays: Any) -> Rows:
        """The same with arrays of this module, numpy or cupy: what is in memory is copied to the GPU once."""
        if arrays is np:
            return self
        if self.whole is not None:
            whole = arrays.asarray(self.whole)
            return Rows(self.shape, lambda: iter([whole]), whole)
        return Rows(self.shape, lambda: map(arrays.asarray, self.pieces()), None)


def of_array(matrix: NDArray[Any]) -> Rows:
    """A matrix that is in memory."""
    single = np.ascontiguousarray(matrix, np.float32)
    return Rows((single.shape[0], single.shape[1]), lambda: iter([single]), single)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Outputs by what belongs to one."""
    columns = 1
    for side in shape[1:]:
        columns *= side
    return shape[0], columns


class Room:
    """Bytes that all threads share for matrices in memory; a thread waits until there is enough for its own."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._left = size
        self._changed = threading.Condition()

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Hold `count` bytes, at most all."""
        count = min(count, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= count)
            self._left -= count
        try:
            yield
        finally:
            with self._changed:
                self._left += count
                self._changed.notify_all()


@contextmanager
def opened(
    pair: Pair, models: tuple[Weights, Weights], room: Room, buffers: Buffers, scratch: int
) -> Iterator[Rows]:
    """The difference of a layer: in memory if a quarter of the room holds it. Raises FileError while it is read.

    `scratch`: bytes of what is made of it, which need room too.
    """
    shape = matrix_shape(pair.shape)
    rows, columns = shape
    if 4 * rows * columns <= room.size // 4:
        with room.take(4 * rows * columns + scratch):
            whole = np.empty(rows * columns, np.float32)
            differences(pair, models, (0, whole.size), whole, buffers)
            yield of_array(whole.reshape(shape))
        return
    step = max(1, _PIECE // columns)
    with room.take(4 * step * columns + scratch):
        piece = np.empty(step * columns, np.float32)

        def pieces() -> Iterator[Singles]:
            for first in range(0, rows, step):
                count = min(step, rows - first)
                values = piece[: count * columns]
                differences(pair, models, (first * columns, (first + count) * columns), values, buffers)
                yield values.reshape(count, columns)

        yield Rows(shape, pieces, None)
