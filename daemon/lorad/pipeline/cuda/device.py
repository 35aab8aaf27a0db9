"""A GPU through CuPy: its memory, copies and launches. All of CuPy that lorad uses is used here.

Pointers are numbers. What goes wrong comes as CuPy's own exceptions; the GPU is then not used any more.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorad.pipeline.cuda.lanes import TILE, Plan

#: Bytes around everything in device memory: the kernel reads whole vectors, a little before and after a piece.
PAD = 128
#: cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost.
_IN, _OUT = 1, 2

Bytes = NDArray[np.uint8]


class Device:
    """One GPU, made the current one of the calling thread by `use`, with the kernel compiled for it."""

    def __init__(self, index: int, options: tuple[str, ...] = ()) -> None:
        # The kernel compiles in a tenth of a second, which needs no folder to write to.
        os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
        self._cupy: Any = import_module("cupy")
        self._runtime = self._cupy.cuda.runtime
        self._device = self._cupy.cuda.Device(index)
        self.use()
        self.name: str = self._runtime.getDeviceProperties(index)["name"].decode()
        source = files(__package__).joinpath("blake3.cu").read_text()
        module = self._cupy.RawModule(code=source, options=("-std=c++17", *options), backend="nvrtc")
        self._chunks, self._parents = module.get_function("chunks"), module.get_function("parents")

    def use(self) -> None:
        self._device.use()

    def free_memory(self) -> int:
        """Bytes that nobody holds."""
        free: int = self._runtime.memGetInfo()[0]
        return free

    def pin(self, address: int, size: int) -> bool:
        """Pin memory of this process, so that it is copied without a detour; whether that was possible.

        What could not be pinned is copied all the same, only slower.
        """
        try:
            self._runtime.hostRegister(address, size, 0)
        except self._runtime.CUDARuntimeError:
            return False
        return True

    def pinned(self, size: int) -> Bytes:
        """New pinned memory of this process."""
        return np.frombuffer(self._cupy.cuda.alloc_pinned_memory(size), np.uint8, size)

    def allocate(self, size: int) -> int:
        """Device memory, with PAD bytes before and after. Give it back by `release`."""
        pointer: int = self._runtime.malloc(size + 2 * PAD)
        return pointer + PAD

    def release(self, pointer: int) -> None:
        self._runtime.free(pointer - PAD)

    def stream(self) -> Any:
        return self._cupy.cuda.Stream(non_blocking=True)

    def event(self, *, timing: bool = False) -> Any:
        """An event; to wait for it sleeps and does not spin."""
        return self._cupy.cuda.Event(block=True, disable_timing=not timing)

    def milliseconds(self, start: Any, end: Any) -> float:
        """Between two events with timing."""
        elapsed: float = self._cupy.cuda.get_elapsed_time(start, end)
        return elapsed

    def copy_in(self, target: int, source: int, size: int, stream: Any) -> None:
        if size:
            self._runtime.memcpyAsync(target, source, size, _IN, stream.ptr)

    def copy_out(self, target: int, source: int, size: int, stream: Any) -> None:
        if size:
            self._runtime.memcpyAsync(target, source, size, _OUT, stream.ptr)

    def launch(self, plan: Plan, data: int, tables: int, values: int, stream: Any, *, joins: bool = False) -> None:
        """Carry out a plan whose items lie, stage after stage, at `tables`; results go to `values`.

        A plan that `joins` has no bytes to digest.
        """
        with stream:
            for number, stage in enumerate(plan.stages):
                first = number == 0 and not joins
                kernel, source = (self._chunks, data) if first else (self._parents, values)
                arguments = (np.uint64(source), np.uint64(tables), np.uint32(len(stage.items)), np.uint64(values))
                kernel((stage.tiles,), (TILE,), arguments)
                tables += stage.items.nbytes


def address(memory: NDArray[Any]) -> int:
    """Where an array lies in this process."""
    where: int = memory.__array_interface__["data"][0]
    return where
