"""Pieces of any length, put into slabs by the loader and digested by the hasher, keep their digests."""

from __future__ import annotations

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from lorad.pipeline.arena import Arena
from lorad.pipeline.hasher import CpuBackend, Hasher
from lorad.pipeline.loader import SlabWriter
from lorad.pipeline.protocol import Filled

SLAB = 4096
PIECES = st.lists(st.integers(0, 3 * SLAB), max_size=12)


@given(st.lists(PIECES, min_size=1, max_size=4), st.integers(1, SLAB))
def test_pieces_survive_slabs(tasks: list[list[int]], grain: int) -> None:
    """Whatever the lengths, and however they are written, each piece gets the digest of its bytes."""
    arena = Arena.create(SLAB, 2)
    hasher = Hasher(arena, CpuBackend())
    digests: dict[int, bytes] = {}

    def digest(filled: Filled) -> None:
        # The hasher reads at once, so two slabs in turns are enough.
        digests[filled.task] = digests.get(filled.task, b"") + hasher.digest(filled).digests

    turns = iter(lambda: next(counter) % 2, None)
    counter = iter(range(10**6))
    writer = SlabWriter(arena, digest, turns)
    for task, lengths in enumerate(tasks):
        writer.task = task
        for number, length in enumerate(lengths):
            data = bytes([task * 16 + number]) * length
            position = 0
            while position < length:
                view = writer.space()[: min(grain, length - position)]
                view[:] = data[position : position + len(view)]
                position += len(view)
                writer.wrote(len(view), ends=position == length)
            if not length:
                writer.wrote(0, ends=True)
        writer.end()
        expected = [blake3(bytes([task * 16 + number]) * length).digest() for number, length in enumerate(lengths)]
        assert digests.get(task, b"") == b"".join(expected)


def test_marks_tell_what_a_loader_works_on() -> None:
    """The core reads from shared memory which file a dead loader had in hand."""
    arena = Arena.create(SLAB, 1)
    twin = Arena(arena.fd, SLAB, 1)
    twin.mark(3, 2**40 + 7, 11)
    assert arena.marked(3) == (7, 11)
    assert arena.marked(2) == (0, 0)
