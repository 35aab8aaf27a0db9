"""CuPy's names for devices, streams and events; `runtime` has CUDA's functions."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from cupy._errors import INVALID_DEVICE, CUDARuntimeError
from cupy._gpu import GPUS, call
from cupy._memory import PinnedMemoryPointer
from cupy.cuda import compiler, driver, runtime
from cupy.cuda._stream import Event, Stream, get_current_stream, get_elapsed_time

__all__ = [
    "Device",
    "Event",
    "PinnedMemoryPointer",
    "Stream",
    "alloc_pinned_memory",
    "compiler",
    "driver",
    "get_current_stream",
    "get_elapsed_time",
    "runtime",
]


class Device:
    def __init__(self, device: int | None = None) -> None:
        self.id = GPUS.current if device is None else device
        self._before: list[int] = []

    @call
    def use(self) -> None:
        if not 0 <= self.id < len(GPUS.memories):
            raise CUDARuntimeError(INVALID_DEVICE)
        GPUS.current = self.id

    def synchronize(self) -> None:
        with self:
            runtime.deviceSynchronize()

    def __enter__(self) -> Self:
        self._before.append(GPUS.current)
        self.use()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        GPUS.current = self._before.pop()

    def __int__(self) -> int:
        return self.id


@call
def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    return GPUS.host.allocate(size)
