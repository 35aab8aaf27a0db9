"""The kernel gives BLAKE3's digests, of whatever lies wherever, whatever order its lanes run in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

SOURCE = files("lorad.pipeline.cuda").joinpath("blake3.cu").read_text()
CHUNK, TILE, VALUE = 1024, 128, 32
SPAN = CHUNK * TILE
ITEM = np.dtype(
    [
        *[("offset", "u8"), ("length", "u8"), ("counter", "u8")],
        *[("start", "u4"), ("output", "u4"), ("root", "u4"), ("unused", "u4")],
    ]
)
#: The kernel reads a little before and behind the bytes that it digests.
PAD = 128

#: Of the official vectors, which are the bytes i mod 251.
LENGTHS = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 2048, 2049, 3072, 3073, 4096, 4097),
    *(5120, 5121, 6144, 6145, 7168, 7169, 8192, 8193, 16384, 31744, 102400),
)
FACTS = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    2: "7b7015bb92cf0b318037702a6cdd81dee41224f734684c2c122cd6359cb1ee63",
    1023: "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
    2048: "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a",
    2049: "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030",
    102400: "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
}
VECTOR = (np.arange(LENGTHS[-1]) % 251).astype(np.uint8)
NOISE = np.random.default_rng(3).integers(0, 256, 1 << 20, np.uint8)


class Piece(NamedTuple):
    """`offset` and `length` of bytes in the data, or of values; `counter`: number of its first chunk."""

    offset: int
    length: int
    counter: int = 0
    root: bool = True


class Kernel:
    """The kernel with the simplest host that lays pieces out right: in the given order, each as it comes."""

    def __init__(self, cupy: ModuleType, source: str = SOURCE) -> None:
        self._runtime: Any = cupy.cuda.runtime
        self._stream = cupy.cuda.Stream(non_blocking=True)
        module = cupy.RawModule(code=source, options=("-std=c++17",), backend="nvrtc")
        self._chunks, self._parents = module.get_function("chunks"), module.get_function("parents")

    def digest(self, data: Bytes, pieces: Sequence[Piece]) -> list[bytes]:
        """The digest of each piece."""
        return self.join(self.tiles(data, pieces))

    def tiles(self, data: Bytes, pieces: Sequence[Piece]) -> list[list[bytes]]:
        """Each piece's values, one for a tile."""
        leaves = [max(1, -(-piece.length // CHUNK)) for piece in pieces]
        return self._launch(self._chunks, data, pieces, leaves)

    def join(self, values: list[list[bytes]]) -> list[bytes]:
        """Each piece's digest, from the values of its tiles."""
        while open_ := [number for number, own in enumerate(values) if len(own) > 1]:
            data = np.frombuffer(b"".join(b"".join(values[number]) for number in open_), np.uint8)
            leaves = [len(values[number]) for number in open_]
            pieces = [Piece(sum(leaves[:i]), length) for i, length in enumerate(leaves)]
            for number, joined in zip(open_, self._launch(self._parents, data, pieces, leaves), strict=True):
                values[number] = joined
        return [digest for (digest,) in values]

    def _launch(
        self, kernel: Any, data: Bytes, pieces: Sequence[Piece], leaves: Sequence[int]
    ) -> list[list[bytes]]:
        rows = []
        lane = outputs = 0
        for piece, count in zip(pieces, leaves, strict=True):
            step = min(TILE, 1 << (count - 1).bit_length())
            lane = -(-lane // step) * step
            rows.append((piece.offset, piece.length, piece.counter, lane, outputs, piece.root, 0))
            lane += count
            outputs += -(-count // TILE)
        result = self._run(kernel, data, np.array(rows, ITEM), -(-lane // TILE), outputs)
        values = [value.tobytes() for value in result]
        starts = [row[4] for row in rows]
        return [values[first:last] for first, last in pairwise([*starts, outputs])]

    def _run(self, kernel: Any, data: Bytes, items: NDArray[np.void], blocks: int, outputs: int) -> Bytes:
        runtime, stream = self._runtime, self._stream
        result = np.zeros((outputs, VALUE), np.uint8)
        places = [runtime.malloc(array.nbytes + 2 * PAD) + PAD for array in (data, items, result)]
        arguments = np.uint64(places[0]), np.uint64(places[1]), np.uint32(len(items)), np.uint64(places[2])
        for place, array in zip(places, (data, items), strict=False):
            runtime.memcpyAsync(place, array.ctypes.data, array.nbytes, runtime.memcpyHostToDevice, stream.ptr)
        with stream:
            kernel((blocks,), (TILE,), arguments)
        back = runtime.memcpyDeviceToHost
        runtime.memcpyAsync(result.ctypes.data, places[2], result.nbytes, back, stream.ptr)
        stream.synchronize()
        for place in places:
            runtime.free(place - PAD)
        return result


def expected(data: Bytes, pieces: Sequence[Piece]) -> list[bytes]:
    return [blake3(data[piece.offset :][: piece.length].tobytes()).digest() for piece in pieces]


@pytest.mark.parametrize("alignment", range(16))
def test_the_official_vectors_come_out_at_every_alignment(cupy: ModuleType, alignment: int) -> None:
    """Every official input, beginning so many bytes after a multiple of 16, in one launch."""
    pieces: list[Piece] = []
    end = 0
    for length in LENGTHS:
        pieces.append(Piece(-(-end // 16) * 16 + alignment, length))
        end = pieces[-1].offset + length
    # What lies between them is not nought, so that nothing of it may count.
    data = np.full(end, 0xEE, np.uint8)
    for piece in pieces:
        data[piece.offset :][: piece.length] = VECTOR[: piece.length]
    digests = Kernel(cupy).digest(data, pieces)
    assert digests == expected(data, pieces)
    assert {length: digests[LENGTHS.index(length)].hex() for length in FACTS} == FACTS


some_lengths = st.one_of(
    st.integers(0, 3 * CHUNK),
    st.builds(lambda chunks, more: chunks * CHUNK + more, st.integers(1, 299), st.integers(-1, 1)),
    st.integers(0, 300 * CHUNK),
)


@given(st.lists(st.tuples(st.integers(0, len(NOISE) - 300 * CHUNK), some_lengths), min_size=1, max_size=40))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_pieces_are_digested_in_one_launch(cupy: ModuleType, places: list[tuple[int, int]]) -> None:
    """Pieces of any length from any byte on, also over one another, each give their own digest."""
    pieces = [Piece(offset, length) for offset, length in places]
    assert Kernel(cupy).digest(NOISE, pieces) == expected(NOISE, pieces)


def test_a_piece_may_lie_at_either_end_of_the_data(cupy: ModuleType) -> None:
    """The first byte and the last one are digested, and nothing is read that is not the host's to read."""
    for length in (0, 1, 15, 1023, 1024, 1025, SPAN):
        pieces = [Piece(0, length), Piece(len(NOISE) - length, length)]
        assert Kernel(cupy).digest(NOISE, pieces) == expected(NOISE, pieces)


def test_pieces_of_more_tiles_than_a_tile_has_lanes_are_joined_twice(cupy: ModuleType) -> None:
    """17 MiB are 136 tiles; 16 MiB are the most that one launch joins, and a byte more is again too much."""
    data = np.resize(NOISE, 17 << 20)
    pieces = [Piece(0, 17 << 20), Piece(1, 16 << 20), Piece(5, (16 << 20) + 1), Piece(9, 2 * SPAN), Piece(7, 4)]
    assert Kernel(cupy).digest(data, pieces) == expected(data, pieces)


@pytest.mark.parametrize("tail", [1, CHUNK, CHUNK + 1, 3 * CHUNK + 7, SPAN - 1, SPAN])
def test_a_piece_digested_in_parts_has_the_digest_of_the_whole(cupy: ModuleType, tail: int) -> None:
    """Parts of whole tiles, which know the number of their first chunk, join to the same tree."""
    kernel = Kernel(cupy)
    length = 5 * SPAN + tail
    values: list[bytes] = []
    for first, last in ((0, 2 * SPAN), (2 * SPAN, 3 * SPAN), (3 * SPAN, 5 * SPAN), (5 * SPAN, length)):
        part = Piece(3 + first, last - first, first // CHUNK, root=False)
        values += kernel.tiles(NOISE, [Piece(0, 5), part])[1]
    assert kernel.join([values]) == expected(NOISE, [Piece(3, length)])


@pytest.mark.parametrize("lanes", [0, -1, 1, 2, 3])
def test_the_order_in_which_lanes_run_does_not_matter(emulated: Callable[..., ModuleType], lanes: int) -> None:
    """First to last, last to first, and shuffled anew between any two barriers."""
    lengths = [0, 5 * CHUNK, 1, 2 * SPAN + 1, 77 * CHUNK, 3 * CHUNK, 64 * CHUNK, 1025, 9 * CHUNK, SPAN]
    pieces = [Piece(17 * number, length) for number, length in enumerate(lengths)]
    assert Kernel(emulated(lanes=lanes)).digest(NOISE, pieces) == expected(NOISE, pieces)
