"""Pieces are laid out so that the kernel's trees fit: alone on their lanes, none across tiles without need."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lorad.pipeline.cuda.lanes import CHUNK, SPAN, TILE, Pieces, plan_join, plan_pieces

LENGTHS = st.one_of(st.integers(0, 3 * CHUNK), st.integers(0, 2 * SPAN), st.just(TILE * SPAN + 1))


def leaves(length: int) -> int:
    return max(1, -(-length // CHUNK))


@given(st.lists(st.tuples(LENGTHS, st.booleans()), min_size=1, max_size=200))
def test_pieces_have_lanes_of_their_own_where_the_kernel_expects_them(pieces: list[tuple[int, bool]]) -> None:
    """Up to `TILE` chunks: within a tile, at a multiple of the power of two that holds them. Else: whole tiles."""
    lengths = np.array([length for length, _ in pieces])
    roots = np.array([root for _, root in pieces])
    offsets = np.arange(len(pieces)) * 3 * SPAN
    stage = plan_pieces(Pieces(offsets, lengths, 0 * lengths, roots)).stages[0]
    assert sorted(stage.items["offset"]) == sorted(offsets)
    end = 0
    for item in stage.items:
        count, start = leaves(int(item["length"])), int(item["start"])
        assert start >= end
        assert start % min(TILE, 1 << (count - 1).bit_length()) == 0
        if count <= TILE:
            assert start % TILE + count <= TILE
        end = start + count
    assert stage.tiles == -(-end // TILE)


@given(st.lists(st.tuples(LENGTHS, st.booleans()), min_size=1, max_size=200))
def test_every_result_has_a_place_of_its_own(pieces: list[tuple[int, bool]]) -> None:
    """No launch overwrites what another one reads or what was asked for, and a digest is the last join's."""
    lengths = np.array([length for length, _ in pieces])
    roots = np.array([root for _, root in pieces])
    plan = plan_pieces(Pieces(0 * lengths, lengths, 0 * lengths, roots))
    written: set[int] = set()
    for number, stage in enumerate(plan.stages):
        sizes = [leaves(int(item["length"])) if number == 0 else int(item["length"]) for item in stage.items]
        if number:
            for item, size in zip(stage.items, sizes, strict=True):
                assert written.issuperset(range(int(item["offset"]), int(item["offset"]) + size))
        for item, size in zip(stage.items, sizes, strict=True):
            places = set(range(int(item["output"]), int(item["output"]) - (-size // TILE)))
            assert not places & written
            written |= places
    assert written == set(range(plan.values))
    assert len(set(plan.results)) == len(pieces)


def test_tiles_of_a_long_piece_are_joined_until_one_is_left() -> None:
    """A terabyte takes four launches: 2^23 values to 2^16, those to 2^9, to 4 and to one."""
    counts = [int(stage.items["length"][0]) for stage in plan_join(np.array([1 << 23])).stages]
    assert counts == [1 << 23, 1 << 16, 1 << 9, 4]


def test_several_pieces_are_joined_by_the_same_launches() -> None:
    """As many as the longest of them takes; each has its last launch where it is done."""
    plan = plan_join(np.array([2, 300, 5]))
    assert [sorted(stage.items["length"]) for stage in plan.stages] == [[2, 5, 300], [3]]
    assert sorted(stage.items["offset"].tolist() for stage in plan.stages[:1]) == [[2, 302, 0]]
    assert plan.values == 307 + 1 + 3 + 1 + 1
    assert len(set(plan.results)) == 3


def test_no_pieces_are_no_work() -> None:
    """A slab may hold nothing but a part of a piece that is too short for a tile."""
    nothing = np.empty(0, np.int64)
    assert plan_pieces(Pieces(nothing, nothing, nothing, nothing > 0)).stages == []
