"""Digests of pieces that lie in a row in memory, also of such that go on in the next memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol, TypeVar

from blake3 import blake3

_Stream = TypeVar("_Stream")

#: Pieces that go on and are waited for: more than there can be loaders, each of which is at one in each lane.
_OPEN = 512


class Stream(Protocol):
    """The digest of a piece that is longer than the memory it comes in, so far."""

    def update(self, data: memoryview, /) -> object: ...

    def digest(self) -> bytes: ...


class Backend(Protocol):
    """What digests: BLAKE3-256 of each piece, the same bytes whatever the backend."""

    #: What it is called in `status`.
    name: str

    def digests(self, pieces: Sequence[memoryview]) -> list[bytes]:
        """The digests (32 bytes each) of whole pieces."""
        ...

    def stream(self) -> Stream:
        """A digest to be fed piece by piece."""
        ...


class CpuBackend:
    """The `blake3` package. A piece that comes in parts is digested by `threads` at once."""

    name = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        # Half of the cores are left to the loaders.
        self._threads = threads or max(1, (os.cpu_count() or 1) // 2)

    def digests(self, pieces: Sequence[memoryview]) -> list[bytes]:
        return [blake3(piece).digest() for piece in pieces]

    def stream(self) -> Stream:
        return blake3(max_threads=self._threads)


def digest_pieces(
    backend: Backend, memory: memoryview, segments: Sequence[int], before: Stream | None, *, goes_on: bool
) -> tuple[bytes, Stream | None]:
    """The digests of the pieces that end in `memory`, and the stream of the last one if it `goes_on`.

    `segments` are the bytes of each piece, from the start of `memory`; the first continues the piece whose
    stream is `before`, where that is given.
    """
    pieces, position = [], 0
    for length in segments:
        pieces.append(memory[position : position + length])
        position += length
    first, after = [], None
    if before is not None and pieces:
        before.update(pieces.pop(0))
        if goes_on and not pieces:
            return b"", before
        first = [before.digest()]
    if goes_on:
        after = backend.stream()
        after.update(pieces.pop())
    return b"".join(first + backend.digests(pieces)), after


def keep(streams: dict[int, _Stream], task: int, stream: _Stream) -> None:
    """Note what a task left open, to be taken out when it goes on.

    Of a task whose loader died nothing more comes, and nobody says so: of those that go on, the last are kept.
    """
    streams[task] = stream
    if len(streams) > _OPEN:
        del streams[next(iter(streams))]
