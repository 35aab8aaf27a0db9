"""CUDA's functions."""
# ruff: noqa: N802, N816 -- CUDA's names

from __future__ import annotations

import ctypes
from typing import Any

from cupy._errors import INVALID_DEVICE, INVALID_VALUE, NOT_SUPPORTED, CUDARuntimeError
from cupy._gpu import GPUS, SETTINGS, Operation, call

__all__ = ["CUDARuntimeError"]

memcpyHostToHost = 0
memcpyHostToDevice = 1
memcpyDeviceToHost = 2
memcpyDeviceToDevice = 3


def driverGetVersion() -> int:
    return 12090


def runtimeGetVersion() -> int:
    return 12090


@call
def getDeviceCount() -> int:
    return len(GPUS.memories)


def _check_device(device: int) -> None:
    if not 0 <= device < len(GPUS.memories):
        raise CUDARuntimeError(INVALID_DEVICE)


@call
def getDeviceProperties(device: int) -> dict[str, Any]:
    _check_device(device)
    return {
        "name": SETTINGS.name.encode(),
        "totalGlobalMem": SETTINGS.memory,
        "major": 9,
        "minor": 0,
        "multiProcessorCount": 132,
    }


@call
def deviceGetPCIBusId(device: int) -> str:
    _check_device(device)
    return f"0000:{device + 1:02X}:00.0"


@call
def setDevice(device: int) -> None:
    _check_device(device)
    GPUS.current = device


@call
def getDevice() -> int:
    return GPUS.current


@call
def memGetInfo() -> tuple[int, int]:
    return GPUS.memory.free, GPUS.memory.total


@call
def malloc(size: int) -> int:
    return GPUS.memory.allocate(size)


@call
def free(ptr: int) -> None:
    """Waits for all that is under way, as CUDA does."""
    if ptr:
        GPUS.wait_all()
        GPUS.memory.release(ptr)


@call
def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    """Memory of the process that is not pinned is read at once, or written before this returns."""
    queue = GPUS.queue(stream)
    if size == 0:
        return
    to_device = kind in {memcpyHostToDevice, memcpyDeviceToDevice}
    from_device = kind in {memcpyDeviceToHost, memcpyDeviceToDevice}
    memory = GPUS.memory
    # Not checked where the process says it has memory: only that it is not the GPU's.
    if memory.holds(dst, size) != to_device or memory.holds(src, size) != from_device or min(dst, src) <= 0:
        raise CUDARuntimeError(INVALID_VALUE)
    if to_device and from_device:
        queue.add(Operation(lambda: ctypes.memmove(dst, src, size)))
        return
    host = src if to_device else dst
    if GPUS.host.is_pinned(host, size):
        queue.add(Operation(lambda: ctypes.memmove(dst, src, size), (host, size)))
    elif to_device:
        staged = ctypes.string_at(src, size)
        queue.add(Operation(lambda: ctypes.memmove(dst, staged, size)))
    else:
        queue.add(Operation(lambda: ctypes.memmove(dst, src, size)))
        queue.wait()


@call
def memsetAsync(ptr: int, value: int, size: int, stream: int) -> None:
    queue = GPUS.queue(stream)
    if not GPUS.memory.holds(ptr, size):
        raise CUDARuntimeError(INVALID_VALUE)
    queue.add(Operation(lambda: ctypes.memset(ptr, value, size)))


@call
def hostRegister(ptr: int, size: int, flags: int) -> None:
    if SETTINGS.refuse_register:
        raise CUDARuntimeError(NOT_SUPPORTED)
    GPUS.host.register(ptr, size)


@call
def hostUnregister(ptr: int) -> None:
    """Raises AssertionError if a copy from or to it is under way."""
    GPUS.check_idle(ptr, GPUS.host.unregister(ptr))


@call
def streamSynchronize(stream: int) -> None:
    GPUS.queue(stream).wait()
    GPUS.check()


@call
def deviceSynchronize() -> None:
    GPUS.wait_all()
