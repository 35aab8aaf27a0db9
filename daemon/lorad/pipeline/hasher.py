"""The hasher process: digests what the loaders put into slabs, with the backend that it was started with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol

from blake3 import blake3

from lorad.pipeline.arena import Arena
from lorad.pipeline.child import arguments
from lorad.pipeline.protocol import Digested, Filled


class Stream(Protocol):
    """The digest of a piece that is longer than a slab, so far."""

    def update(self, data: memoryview, /) -> object: ...

    def digest(self) -> bytes: ...


class Backend(Protocol):
    """What digests: BLAKE3-256 of each piece, the same bytes whatever the backend."""

    def digests(self, pieces: Sequence[memoryview]) -> list[bytes]:
        """The digests (32 bytes each) of whole pieces."""
        ...

    def stream(self) -> Stream:
        """A digest to be fed piece by piece."""
        ...


class CpuBackend:
    """The `blake3` package. On many cores a long piece is digested by several at once."""

    def __init__(self) -> None:
        # Half of the cores are left to the loaders.
        self._threads = max(1, (os.cpu_count() or 1) // 2)

    def digests(self, pieces: Sequence[memoryview]) -> list[bytes]:
        return [blake3(piece).digest() for piece in pieces]

    def stream(self) -> Stream:
        return blake3(max_threads=self._threads)


#: What `--hasher` may say. `auto` is the fastest that works here.
BACKENDS: dict[str, Callable[[], Backend]] = {"auto": CpuBackend, "cpu": CpuBackend}


class Hasher:
    """Digests slabs in the order in which they come; a task's slabs come in the order of its bytes."""

    def __init__(self, arena: Arena, backend: Backend) -> None:
        self._arena = arena
        self._backend = backend
        self._streams: dict[int, Stream] = {}

    def digest(self, filled: Filled) -> Digested:
        view = self._arena.slab(filled.slab)
        pieces, position = [], 0
        for length in filled.segments:
            pieces.append(view[position : position + length])
            position += length
        digests = []
        if filled.continued and pieces:
            stream = self._streams.pop(filled.task)
            stream.update(pieces.pop(0))
            if filled.open and not pieces:
                self._streams[filled.task] = stream
                return Digested(filled.task, filled.slab, b"")
            digests.append(stream.digest())
        tail = pieces.pop() if filled.open else None
        digests += self._backend.digests(pieces)
        if tail is not None:
            stream = self._streams[filled.task] = self._backend.stream()
            stream.update(tail)
        return Digested(filled.task, filled.slab, b"".join(digests))


def main() -> None:
    line, (*numbers, backend) = arguments()
    arena_fd, slab, slabs = map(int, numbers)
    hasher = Hasher(Arena(arena_fd, slab, slabs), BACKENDS[backend]())
    for message in line.messages():
        if isinstance(message, Filled):
            line.send(hasher.digest(message))
    line.close()


if __name__ == "__main__":
    main()
