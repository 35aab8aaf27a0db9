"""Layers that do not lie in C order: torch keeps the strides of views. Here they become plain bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

from loracore.errors import MalformedFile
from loracore.tensorfile.container import Strides
from loracore.tensorfile.layout import DTYPE_BITS, Layer
from loracore.tensorfile.source import Source

#: The storage behind a strided layer is read whole; a larger one is refused.
MAX_STORAGE = 2 << 30

_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


def gather(source: Source | int, offset: int, layer: Layer, strides: Strides, chunk: int) -> Iterator[bytes]:
    """The layer's bytes in C order, little-endian, in pieces of at most `chunk` (16 or more) bytes.

    `offset` is where the layer's first element lies in the file; `source` may be a bare descriptor. Reads
    `strides.storage_bytes` at once.

    Raises:
        MalformedFile: the storage is larger than 2 GiB, or the file ends before it does.
    """
    if strides.storage_bytes > MAX_STORAGE:
        raise MalformedFile(f"tensor {layer.name[:80]!r} is a view of more than 2 GiB; save it after contiguous()")
    if isinstance(source, int):
        source = Source(source, os.fstat(source).st_size)
    dimensions, width = _dimensions(layer, strides)
    storage = source.read(offset, strides.storage_bytes)
    items = memoryview(storage[: len(storage) // width * width]).cast(_FORMATS[width])
    pending = bytearray()
    for row in _rows(items, dimensions, max(1, chunk // width)):
        if len(pending) + len(row) > chunk:
            yield bytes(pending)
            pending.clear()
        pending += row
    if pending:
        yield bytes(pending)


def _dimensions(layer: Layer, strides: Strides) -> tuple[list[tuple[int, int]], int]:
    """(size, stride) of the dimensions, neighbours joined where one walk covers both; bytes an item."""
    width = max(1, DTYPE_BITS[layer.dtype] // 8)
    sizes = list(layer.shape)
    if layer.dtype == "F4":
        # torch's element is a byte with two of them, side by side in the last dimension.
        sizes[-1] //= 2
    steps = list(strides.strides)
    if width == 16:
        sizes, steps, width = [*sizes, 2], [*(2 * step for step in steps), 1], 8
    joined: list[tuple[int, int]] = []
    for size, step in zip(sizes, steps, strict=True):
        if size == 1:
            continue
        if joined and joined[-1][1] == size * step:
            joined[-1] = (joined[-1][0] * size, step)
        else:
            joined.append((size, step))
    return joined or [(1, 1)], width


def _rows(items: memoryview, dimensions: list[tuple[int, int]], most: int) -> Iterator[bytes]:
    """The elements in C order, in runs of the last dimension of at most `most` elements."""
    *outer, (count, step) = dimensions
    if any(size == 0 for size, _ in dimensions):
        return
    for first in _firsts(outer):
        for done in range(0, count, most):
            number = min(most, count - done)
            start = first + done * step
            if step:
                yield items[start : start + (number - 1) * step + 1 : step].tobytes()
            else:
                yield items[start : start + 1].tobytes() * number


def _firsts(outer: list[tuple[int, int]]) -> Iterator[int]:
    """Where each run begins: an odometer over the outer dimensions, the last one turning fastest."""
    places = [0] * len(outer)
    first = 0
    while True:
        yield first
        for axis in range(len(outer) - 1, -1, -1):
            size, step = outer[axis]
            places[axis] += 1
            first += step
            if places[axis] < size:
                break
            first -= size * step
            places[axis] = 0
        else:
            return
