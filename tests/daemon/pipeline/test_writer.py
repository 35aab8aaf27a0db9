"""Pieces of any length keep their digests, whether the hasher digests them in slabs or the loader itself."""

from __future__ import annotations

import itertools

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from lorad.pipeline.arena import Arena
from lorad.pipeline.hasher import Hasher
from lorad.pipeline.protocol import Filled
from lorad.pipeline.writer import PieceWriter

SLAB = 4096
PIECES = st.lists(st.integers(0, 3 * SLAB), max_size=12)


@given(
    st.lists(PIECES, min_size=1, max_size=4),
    st.integers(64, SLAB),
    st.lists(st.booleans(), max_size=20),
    st.booleans(),
)
def test_pieces_keep_their_digests(tasks: list[list[int]], grain: int, free: list[bool], whole: bool) -> None:
    """Whatever the lengths, however they are written, and whoever had time to digest them."""
    arena = Arena.create(SLAB, 2)
    hasher = Hasher(arena, told=pytest.fail)
    digests: list[bytes] = []
    turns, moments = itertools.cycle([0, 1]), iter(free)

    def digest(filled: Filled) -> None:
        # The hasher reads at once, so two slabs in turns are enough.
        digests.extend((filled.before, *(digested.digests for digested in hasher.take(filled))))

    def take_slab(wait: bool) -> int | None:
        return next(turns) if wait or next(moments, False) else None

    writer = PieceWriter(arena, digest, take_slab, own=SLAB // 4)
    for task, lengths in enumerate(tasks):
        digests.clear()
        writer.task = task
        for number, length in enumerate(lengths):
            content = bytes([task * 16 + number]) * length
            position = 0
            while position < length:
                view = writer.space(length - position if whole else 1)[: min(grain, length - position)]
                view[:] = content[position : position + len(view)]
                position += len(view)
                writer.wrote(len(view), ends=position == length)
            if not length:
                writer.wrote(0, ends=True)
        digests.append(writer.end())
        expected = [blake3(bytes([task * 16 + number]) * length).digest() for number, length in enumerate(lengths)]
        assert b"".join(digests) == b"".join(expected)


def test_marks_tell_what_a_loader_works_on() -> None:
    """The core reads from shared memory which file a dead loader had in hand."""
    arena = Arena.create(SLAB, 1)
    twin = Arena(arena.fd, SLAB, 1)
    twin.mark(3, 2**40 + 7, 11)
    assert arena.marked(3) == (7, 11)
    assert arena.marked(2) == (0, 0)
