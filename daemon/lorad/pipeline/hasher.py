"""The hasher process: digests what the loaders put into slabs, on the CPU or on a GPU.

`auto` begins on the CPU at once, opens the GPU beside that, and goes over to it when it has shown to be faster.
A GPU that fails, whenever and however, is not used any more: what it still owed is digested on the CPU, and a
task with a piece whose beginning is lost with it is reported as lost, to be done again. A process that has a
place on a GPU and makes no use of it says so, and is replaced: only its end gives that memory back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Protocol

from lorad.pipeline.arena import Arena
from lorad.pipeline.digesting import CpuBackend, Stream, digest_pieces, keep
from lorad.pipeline.endpoint import CoreGoneError, Line, take_place
from lorad.pipeline.protocol import Digested, Filled, Using


class Gpu(Protocol):
    """Takes slabs and answers them later; raises anything when it fails. See `cuda.digester`."""

    def __len__(self) -> int: ...

    def adopt(self) -> None: ...

    @property
    def full(self) -> bool: ...

    def take(self, filled: Filled, /) -> None: ...

    def advance(self) -> list[Digested]: ...

    def unanswered(self) -> list[Filled]: ...


class Hasher:
    """Digests slabs; a task's slabs come in the order of its bytes. `told(note)` hears of a GPU that failed."""

    def __init__(self, arena: Arena, told: Callable[[str], None]) -> None:
        self._arena = arena
        self._told = told
        self._backend = CpuBackend()
        #: Of pieces that the CPU began and that go on, by their task.
        self._streams: dict[int, Stream] = {}
        self._gpu: Gpu | None = None
        #: The one that failed: to destroy its remains could fail again.
        self._failed: Gpu | None = None

    @property
    def busy(self) -> bool:
        """Whether there are slabs that the GPU has not answered."""
        return self._gpu is not None and len(self._gpu) > 0

    def use(self, gpu: Gpu) -> None:
        """From the next slab on, digest with this; pieces that the CPU began are ended by it."""
        try:
            gpu.adopt()
        except Exception as error:
            # Whatever a driver raises, the CPU goes on.
            self._fail(gpu, error)
        else:
            self._gpu = gpu

    def take(self, filled: Filled) -> list[Digested]:
        """Digest this slab, at once or at the latest when `advance` was called often enough."""
        if self._gpu is None or (filled.continued and filled.task in self._streams):
            return [self._digest(filled)]
        self._gpu.take(filled)
        return self.advance() if self._gpu.full else []

    def advance(self) -> list[Digested]:
        """Have the GPU go on; what it has digested."""
        if self._gpu is None:
            return []
        try:
            return self._gpu.advance()
        except Exception as error:
            # Drivers fail in many ways, all of them with the same remedy.
            gpu, self._gpu = self._gpu, None
            self._fail(gpu, error)
            return [self._digest(filled) for filled in gpu.unanswered()]

    def _fail(self, gpu: Gpu, error: Exception) -> None:
        self._failed = gpu
        self._told(f"the GPU failed: {first_line(error)}; the CPU goes on, restart lorad to try it again")

    def _digest(self, filled: Filled) -> Digested:
        before = self._streams.pop(filled.task, None) if filled.continued else None
        if filled.continued and before is None:
            return Digested(filled.task, filled.slab, b"", lost=True)
        memory = self._arena.slab(filled.slab)
        digests, after = digest_pieces(self._backend, memory, filled.segments, before, goes_on=filled.open)
        if after is not None:
            keep(self._streams, filled.task, after)
        return Digested(filled.task, filled.slab, digests)


class _Opening:
    """Opens the GPU and compares it with the CPU; in a thread of its own unless it `must` be used."""

    def __init__(self, arena: Arena, memory: int, *, must: bool) -> None:
        self._arena = arena
        self._memory = memory
        self._must = must
        self._entered = False
        self.gpu: Gpu | None = None
        self.using = Using("cpu")

    def run(self) -> None:
        """`gpu` and `using` say how it went."""
        worse = False
        try:
            self.gpu, note = self._open()
        except Exception as error:
            # CuPy and drivers fail in many ways, all of them with the same remedy.
            note, worse = f"no GPU: {first_line(error)}", self._must
        if self.gpu is not None:
            self.using = Using("cuda", note)
        else:
            self.using = Using("cpu", note, worse, spent=self._entered)

    def _open(self) -> tuple[Gpu | None, str]:
        """A GPU if it is to be used, and a note of why."""
        if find_spec("cupy") is None:
            raise ImportError("CuPy is not there; pip install 'lorad[gpu]'")
        from lorad.pipeline.cuda.opening import cpu_rate, open_gpu, roomiest  # noqa: PLC0415  (it brings NumPy)

        index = roomiest()
        self._entered = True
        gpu, name, rate = open_gpu(self._arena, index, self._memory)
        said = f"{name}, {rate / 1e9:.1f} GB/s"
        if self._must:
            return gpu, said
        beside = cpu_rate(self._arena)
        if rate > beside:
            return gpu, f"{said}; the CPU {beside / 1e9:.1f} GB/s"
        return None, f"faster than {said}: {beside / 1e9:.1f} GB/s"


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def work(line: Line, hasher: Hasher, opened: Callable[[], None], step: Callable[[], None]) -> None:
    """Answer slabs until the core is gone. `opened` is called whenever nothing is under way."""
    while True:
        if not hasher.busy:
            opened()
        try:
            message = line.receive(wait=not hasher.busy)
        except CoreGoneError:
            return
        for digested in hasher.take(message) if isinstance(message, Filled) else hasher.advance():
            line.send(digested)
            step()


def main() -> None:
    place = take_place()
    line, arena = place.line, place.arena
    choice, memory = place.arguments[0], int(place.arguments[1]) << 20
    hasher = Hasher(arena, lambda note: line.send(Using("cpu", note, worse=True, spent=True)))
    opening = _Opening(arena, memory, must=choice == "cuda")
    done = threading.Event()

    def open_beside() -> None:
        opening.run()
        done.set()
        line.wake()

    def opened() -> None:
        if done.is_set():
            done.clear()
            line.send(opening.using)
            if opening.gpu is not None:
                hasher.use(opening.gpu)

    if choice == "cuda":
        opening.run()
        done.set()
        opened()
    elif choice == "auto" and find_spec("cupy") is not None:
        threading.Thread(target=open_beside, daemon=True).start()
    else:
        line.send(Using("cpu"))
    line.ready()
    work(line, hasher, opened, lambda: arena.step(place.number))
    line.leave()


if __name__ == "__main__":
    main()
