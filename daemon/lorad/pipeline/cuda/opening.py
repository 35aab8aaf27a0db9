"""Whether a GPU is to be used: one is found, has room, digests rightly; and how fast it is beside the CPU."""

from __future__ import annotations

import os
import time
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3

from lorad.pipeline.arena import Arena
from lorad.pipeline.cuda.buffer import Sizes
from lorad.pipeline.cuda.device import Device, address
from lorad.pipeline.cuda.digester import DEPTH, CudaDigester
from lorad.pipeline.cuda.plan import SPAN
from lorad.pipeline.digesting import CpuBackend
from lorad.pipeline.protocol import Filled

#: Bytes that have to be free before we come, CUDA's own half of them included: who serves models goes first.
LITTLE = 1 << 30
#: Of what is free we take one part in so many, and at most so much.
_SHARE, _MOST = 50, 256 << 20
#: The smallest batch that is so near to the fastest is taken: a larger one only costs memory.
_NEAR = 0.95
#: Bytes of a piece while speed is measured, and seconds that a measurement takes at least.
_PIECE, _SECONDS = 256 << 10, 0.01


class NoGpu(Exception):
    """Why no GPU is used, in a few words, with the remedy where there is one."""


class Opened(NamedTuple):
    """A digester that works, the GPU's name, and its speed in bytes a second, slabs in and digests out."""

    digester: CudaDigester
    name: str
    rate: float


def open_gpu(arena: Arena, memory: int = 0) -> Opened:
    """The GPU with the most free memory, tried and measured. It takes up to `memory` bytes; 0: a small share.

    Raises NoGpu, or what CuPy raises where the GPU or its driver does not work.
    """
    device = Device(_roomiest())
    free = device.free_memory()
    if free < LITTLE // 2:
        raise NoGpu(_full(device.name, free, LITTLE // 2))
    check(device)
    each = DEPTH * Sizes(1, arena.slab_size).device_bytes
    if 0 < memory < each:
        raise NoGpu(f"{memory >> 20} MiB of its memory are too little; set gpu_memory_mb to 32")
    limit = memory or min(free // _SHARE, _MOST)
    pinned = device.pin(address(np.frombuffer(arena.slabs, np.uint8)), len(arena.slabs))
    digester, rate = _best(device, arena, most=max(1, min(limit // each, arena.count // DEPTH)))
    return Opened(digester, device.name if pinned else f"{device.name}, slabs not pinned", rate)


def cpu_rate(arena: Arena) -> float:
    """Bytes a second that the CPU digests, of the same slabs."""
    backend, slab = CpuBackend(), arena.slab(0)
    pieces = [slab[start : start + _PIECE] for start in range(0, len(slab), _PIECE)]
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < _SECONDS or not count:
        backend.digests(pieces)
        count += 1
    return count * len(slab) / elapsed


def check(device: Device) -> None:
    """Digest pieces of many lengths, within slabs and over several. Raises NoGpu when a digest is wrong."""
    arena = Arena.create(slab=2 * SPAN, slabs=3)
    os.close(arena.fd)
    arena.slabs[:] = os.urandom(len(arena.slabs))
    digester = CudaDigester(arena, device, batch=2)
    first = [0, 1, 63, 1024, 1025, 40_000, SPAN + 1]
    for filled in (
        Filled(0, 0, [*first, 2 * SPAN - sum(first)], continued=False, open=True),
        Filled(0, 1, [2 * SPAN], continued=True, open=True),
        Filled(0, 2, [5000, 2 * SPAN - 5000], continued=True, open=False),
    ):
        digester.take(filled)
    found = b"".join(digested.digests for digested in drain(digester))
    digester.close()
    expected, position = b"", 0
    for length in [*first, 4 * SPAN - sum(first) + 5000, 2 * SPAN - 5000]:
        expected += blake3(arena.slabs[position : position + length]).digest()
        position += length
    if found != expected:
        raise NoGpu(f"{device.name} digests wrongly; run a test of its memory")


def drain(digester: CudaDigester) -> list[Any]:
    """All answers that a digester owes."""
    answers = []
    while len(digester):
        answers += digester.advance()
    return answers


def _best(device: Device, arena: Arena, most: int) -> tuple[CudaDigester, float]:
    """A digester whose batches are as large as pays, and its rate."""
    digester = CudaDigester(arena, device, most)
    rates = {}
    batch = 1
    while batch <= most:
        digester.batch = batch
        rates[batch] = _rate(digester, arena)
        batch *= 2
    best = min(batch for batch, rate in rates.items() if rate >= _NEAR * max(rates.values()))
    digester.close()
    return CudaDigester(arena, device, best), rates[best]


def _rate(digester: CudaDigester, arena: Arena) -> float:
    """Bytes a second, from slabs in pieces to digests, both ways under way at once."""
    pieces = [_PIECE] * (arena.slab_size // _PIECE) or [arena.slab_size]
    slabs = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < _SECONDS or not slabs:
        for slab in range(arena.count):
            digester.take(Filled(0, slab, pieces, continued=False, open=False))
        slabs += len(drain(digester))
    return slabs * sum(pieces) / elapsed


def _roomiest() -> int:
    """The number of the GPU with the most free memory. Raises NoGpu."""
    runtime: Any = import_module("cupy").cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise NoGpu(f"no GPU of NVIDIA's answers: {error}") from error
    if count == 0:
        raise NoGpu("there is no GPU of NVIDIA's")
    try:
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:
        # The driver's library is not everywhere (WSL, containers). What is free then shows when we are there.
        return 0
    free = []
    for index in range(count):
        handle = nvml.nvmlDeviceGetHandleByPciBusId(runtime.deviceGetPCIBusId(index))
        free.append(nvml.nvmlDeviceGetMemoryInfo(handle).free)
    index = free.index(max(free))
    if free[index] < LITTLE:
        raise NoGpu(_full(runtime.getDeviceProperties(index)["name"].decode(), free[index], LITTLE))
    return index


def _full(name: str, free: int, wanted: int) -> str:
    return f"{name} has only {free >> 20} MiB free; {wanted >> 20} MiB are asked for, to stay out of others' way"
