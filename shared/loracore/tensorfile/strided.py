"""Layers that do not lie in C order: torch keeps the strides of views. Here they become plain bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import prod
from typing import Literal

from loracore.errors import MalformedFile
from loracore.tensorfile.container import DTYPE_BITS, Layer, Strides
from loracore.tensorfile.source import Source

#: The storage behind a strided layer is read whole, and the layer made whole; larger ones are refused.
MAX_BYTES = 1 << 30
#: A layer that takes more copies than this to put in order would take too long.
MAX_COPIES = 500_000

_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


def gather(source: Source | int, offset: int, layer: Layer, strides: Strides, chunk: int) -> Iterator[bytes]:
    """The layer's bytes in C order, little-endian, in pieces of at most `chunk` bytes.

    `offset` is where the layer's first element lies in the file; `source` may be a bare descriptor. Reads
    `strides.storage_bytes` at once, and copies along the longest dimension.

    Raises:
        MalformedFile: the layer is larger than 1 GiB or lies in too many pieces, or the file ends before it.
    """
    dimensions, width = _dimensions(layer, strides)
    items_in_all = prod(size for size, _ in dimensions)
    longest = max(range(len(dimensions)), key=lambda axis: dimensions[axis][0])
    if max(strides.storage_bytes, items_in_all * width) > MAX_BYTES:
        raise MalformedFile(f"tensor {layer.name[:80]!r} is a view of over 1 GiB; save it after contiguous()")
    if items_in_all > MAX_COPIES * dimensions[longest][0]:
        raise MalformedFile(f"tensor {layer.name[:80]!r} lies in too many pieces; save it after contiguous()")
    if not items_in_all:
        return
    if isinstance(source, int):
        source = Source(source, os.fstat(source).st_size)
    storage = source.read(offset, strides.storage_bytes)
    items = memoryview(storage[: len(storage) // width * width]).cast(_FORMATS[width])
    ordered = memoryview(bytearray(items_in_all * width))
    _copy(items, ordered.cast(_FORMATS[width]), dimensions, longest)
    for start in range(0, len(ordered), chunk):
        yield bytes(ordered[start : start + chunk])


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


def _copy(items: memoryview, ordered: memoryview, dimensions: list[tuple[int, int]], longest: int) -> None:
    """Put `items` in C order, a run along the longest dimension at a time."""
    steps = [prod(size for size, _ in dimensions[axis + 1 :]) for axis in range(len(dimensions))]
    count, step = dimensions[longest]
    to_step = steps[longest]
    others = [(size, by, to) for (size, by), to in zip(dimensions, steps, strict=True)]
    del others[longest]
    for first, to in _firsts(others):
        target = ordered[to : to + (count - 1) * to_step + 1 : to_step]
        if step:
            target[:] = items[first : first + (count - 1) * step + 1 : step]
        else:
            target[:] = memoryview(items[first : first + 1].tobytes() * count).cast(ordered.format)  # type: ignore[call-overload]


def _firsts(others: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Where each run begins, and where it goes: an odometer over the other dimensions."""
    places = [0] * len(others)
    first = to = 0
    while True:
        yield first, to
        for axis in range(len(others) - 1, -1, -1):
            size, step, to_step = others[axis]
            places[axis] += 1
            first, to = first + step, to + to_step
            if places[axis] < size:
                break
            first, to = first - size * step, to - size * to_step
            places[axis] = 0
        else:
            return
