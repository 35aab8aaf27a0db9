"""Room: each block is counted once, however it is cut and whoever comes first."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from lorad.blocks.extents import NOWHERE, Extent
from lorad.blocks.room import Room, packed, unpacked


@st.composite
def files(draw: st.DrawFn) -> tuple[int, int, list[Extent]]:
    """(device, size, extents): in order, with holes, some of them not on the disk yet."""
    extents, position = [], 0
    for hole, length, distance in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6), st.sampled_from([0, 0, 7, 40, None])), max_size=5)
    ):
        position += hole
        extents.append(Extent(position, NOWHERE if distance is None else position + distance, length))
        position += length
    return draw(st.integers(1, 2)), draw(st.integers(position // 2, position + 3)), extents


def blocks(number: int, dev: int, size: int, extents: list[Extent]) -> Iterator[object]:
    """Byte for byte what a file takes; a byte without a place is of this file alone."""
    for extent in extents:
        for byte in range(extent.start, min(extent.end, size)):
            distance = extent.place - extent.start
            yield (number, byte) if extent.place == NOWHERE else (dev, distance, byte)


@given(st.lists(files(), max_size=6))
def test_each_byte_counts_once(library: list[tuple[int, int, list[Extent]]]) -> None:
    """What each file adds is what none before it has; a file of unknown extents adds its size."""
    room, taken = Room(), set()
    for number, (dev, size, extents) in enumerate(library):
        own = set(blocks(number, dev, size, extents)) - taken
        taken |= own
        assert room.add(dev, size, packed(extents)) == (len(own) if extents else size)


@given(st.lists(files(), max_size=6), st.integers(0, 99))
def test_the_order_makes_no_difference_to_the_sum(library: list[tuple[int, int, list[Extent]]], seed: int) -> None:
    one, other = Room(), Room()
    shuffled = random.Random(seed).sample(library, len(library))
    assert sum(one.add(dev, size, packed(found)) for dev, size, found in library) == sum(
        other.add(dev, size, packed(found)) for dev, size, found in shuffled
    )


@given(files(), st.lists(st.integers(1, 5), max_size=20))
def test_what_lies_together_is_one(file: tuple[int, int, list[Extent]], cuts: list[int]) -> None:
    """File systems cut extents as they like."""
    _, _, extents = file
    pieces = []
    for extent in extents:
        start = extent.start
        while start < extent.end:
            length = min(cuts.pop() if cuts else 6, extent.end - start)
            place = NOWHERE if extent.place == NOWHERE else extent.place + start - extent.start
            pieces.append(Extent(start, place, length))
            start += length
    assert packed(pieces) == packed(extents)
    found = list(unpacked(packed(extents)))
    assert sum(length for _, _, length in found) == sum(extent.length for extent in extents)
