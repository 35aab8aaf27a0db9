"""Room: each block is counted once, however it is cut and whoever comes first."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorad.blocks.usage import MOST, NOWHERE, Extent, Room, packed, unpacked


class Lying(NamedTuple):
    """A file that lies somewhere: in order, with holes, some of it not on the disk yet."""

    file_system: int
    size: int
    extents: list[Extent]

    def packed(self, most: int = MOST) -> bytes:
        return packed(self.file_system, self.size, self.extents, most)


@st.composite
def files(draw: st.DrawFn) -> Lying:
    extents, position = [], 0
    pieces = st.tuples(st.integers(0, 2), st.integers(1, 6), st.sampled_from([0, 0, 7, -5, NOWHERE]))
    for hole, length, distance in draw(st.lists(pieces, max_size=5)):
        position += hole
        extents.append(Extent(position, length, distance))
        position += length
    return Lying(draw(st.integers(1, 2)), draw(st.integers(position // 2, position + 3)), extents)


def blocks(number: int, file: Lying) -> Iterator[object]:
    """Byte for byte what a file takes; a byte without a place is of this file alone."""
    for extent in file.extents:
        for byte in range(extent.start, min(extent.end, file.size)):
            yield (number, byte) if extent.distance == NOWHERE else (file.file_system, extent.distance, byte)


@given(st.lists(files(), max_size=6))
def test_each_byte_counts_once(library: list[Lying]) -> None:
    """What each file adds is what none before it has."""
    room, taken = Room(), set()
    for number, file in enumerate(library):
        own = set(blocks(number, file)) - taken
        taken |= own
        assert room.add(file.size, file.packed()) == len(own)


@given(st.lists(files(), max_size=6), st.integers(0, 3))
def test_files_in_many_pieces_share_all_or_nothing(library: list[Lying], most: int) -> None:
    """All with those that lie in the same places to the last byte, and are on the disk with it."""
    room, known, taken = Room(), [], set()
    for number, file in enumerate(library):
        own = set(blocks(number, file))
        extents = file.packed(most)
        if len(list(unpacked(file.packed()))) <= most:
            assert extents == file.packed()
            own -= taken
            taken |= own
        elif own in known:
            own = set()
        else:
            known.append(own)
        assert room.add(file.size, extents) == len(own)


def test_a_file_costs_bounded_memory() -> None:
    """However many pieces it is in."""
    extents = (Extent(2 * start, 1, -start) for start in range(100_000))
    assert len(packed(1, 1 << 30, extents)) < 100


@pytest.mark.parametrize("extents", [None, b"", b"\0" * 24])
def test_files_count_by_their_size_where_nothing_is_known(extents: bytes | None) -> None:
    """As where a catalogue has what this version does not know."""
    room = Room()
    assert [room.add(100, extents), room.add(100, extents)] == [100, 100]


@given(st.lists(files(), max_size=6), st.integers(0, 99), st.sampled_from([1, MOST]))
def test_the_order_makes_no_difference_to_the_sum(library: list[Lying], seed: int, most: int) -> None:
    one, other = Room(), Room()
    shuffled = random.Random(seed).sample(library, len(library))
    assert sum(one.add(file.size, file.packed(most)) for file in library) == sum(
        other.add(file.size, file.packed(most)) for file in shuffled
    )


@given(files(), st.lists(st.integers(1, 5), max_size=20), st.integers(0, 5), st.sampled_from([1, MOST]))
def test_what_lies_together_is_one(file: Lying, cuts: list[int], reserved: int, most: int) -> None:
    """File systems cut extents as they like, and reserve room behind the end of a file."""
    pieces = []
    for extent in file.extents:
        start = extent.start
        while start < extent.end:
            length = min(cuts.pop() if cuts else 6, extent.end - start)
            pieces.append(Extent(start, length, extent.distance))
            start += length
    pieces.append(Extent(max([file.size, *(piece.end for piece in pieces)]), reserved, 99))
    assert file._replace(extents=pieces).packed(most) == file.packed(most)
    found = list(unpacked(file.packed()))
    assert sum(length for _, length, _ in found) == len(set(blocks(0, file)))
