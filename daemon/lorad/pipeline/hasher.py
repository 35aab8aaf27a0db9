"""The hasher process: digests what the loaders put into slabs, with the backend that it was started with."""

from __future__ import annotations

from collections.abc import Callable

from lorad.pipeline.arena import Arena
from lorad.pipeline.child import take_place
from lorad.pipeline.digesting import Backend, CpuBackend, Stream, digest_pieces
from lorad.pipeline.protocol import Digested, Filled

#: What `--hasher` may say. `auto` is the fastest that works here.
BACKENDS: dict[str, Callable[[], Backend]] = {"auto": CpuBackend, "cpu": CpuBackend}


class Hasher:
    """Digests slabs in the order in which they come; a task's slabs come in the order of its bytes."""

    def __init__(self, arena: Arena, backend: Backend) -> None:
        self._arena = arena
        self._backend = backend
        self._streams: dict[int, Stream] = {}

    def digest(self, filled: Filled) -> Digested:
        memory = self._arena.slab(filled.slab)
        before = self._streams.pop(filled.task) if filled.continued else None
        digests, after = digest_pieces(self._backend, memory, filled.segments, before, goes_on=filled.open)
        if after is not None:
            self._streams[filled.task] = after
        return Digested(filled.task, filled.slab, digests)


def main() -> None:
    place = take_place()
    backend = BACKENDS[place.arguments[0]]()
    hasher = Hasher(place.arena, backend)
    place.line.ready(backend.name)
    for message in place.line.messages():
        if isinstance(message, Filled):
            place.line.send(hasher.digest(message))
            place.arena.step(place.number)
    place.line.leave()


if __name__ == "__main__":
    main()
