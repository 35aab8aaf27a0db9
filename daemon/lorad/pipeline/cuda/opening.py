"""Whether a GPU is to be used: one is found, has room, digests rightly; and how fast it is beside the CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import numpy as np
from blake3 import blake3

from lorad.pipeline.arena import Arena
from lorad.pipeline.cuda import driver
from lorad.pipeline.cuda.buffer import Sizes
from lorad.pipeline.cuda.device import Device, address
from lorad.pipeline.cuda.digester import DEPTH, CudaDigester
from lorad.pipeline.cuda.joins import JOINS_BYTES
from lorad.pipeline.cuda.lanes import SPAN
from lorad.pipeline.digesting import CpuBackend
from lorad.pipeline.protocol import Filled

#: Bytes that have to be free before we come, CUDA's own half of them included: who serves models goes first.
LITTLE = 1 << 30
#: Of what is free we take one part in so many, and at most so much.
_SHARE, _MOST = 50, 256 << 20
#: The smallest batch that is so near to the fastest is taken: a larger one only costs memory.
_NEAR = 0.95
#: Bytes of a piece while speed is measured, seconds of a measurement, and of all that are compared, at least.
_PIECE, _SECONDS, _WHILE = 256 << 10, 0.01, 0.1

_Result = TypeVar("_Result")


class NoGpu(Exception):
    """Why no GPU is used, in a few words, with the remedy where there is one."""


class Opened(NamedTuple):
    """A digester that works, the GPU's name, and its speed in bytes a second, slabs in and digests out."""

    digester: CudaDigester
    name: str
    rate: float


class _State(NamedTuple):
    """What NVML tells of a GPU; `free` in bytes."""

    name: str
    free: int


def roomiest() -> int:
    """The number of the GPU with the most free memory; no GPU is entered for that. Raises NoGpu."""
    runtime: Any = import_module("cupy").cuda.runtime
    driver.start()
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise NoGpu(f"CUDA finds none: {error}") from error
    states = dict(_states(runtime, count))
    index = max(states, key=lambda index: states[index].free, default=0)
    if not states or states[index].free < LITTLE:
        # What is free on the others shows when we are there.
        unknown = [index for index in range(count) if index not in states]
        if not unknown:
            raise NoGpu(_full(*states[index], LITTLE))
        return unknown[0]
    return index


def open_gpu(arena: Arena, index: int, memory: int = 0) -> Opened:
    """A GPU, tried and measured. It takes up to `memory` bytes; 0: a small share, but what a slab at a time needs.

    Raises NoGpu, or what CuPy raises where the GPU or its driver does not work.
    """
    driver.enter(index)
    device = Device(index)
    free = device.free_memory()
    if free < LITTLE // 2:
        raise NoGpu(_full(device.name, free, LITTLE // 2))
    check(device)
    each = DEPTH * Sizes(1, arena.slab_size).device_bytes
    if 0 < memory < each + JOINS_BYTES:
        raise NoGpu(f"{memory >> 20} MiB of its memory are too little; set gpu_memory_mb to 32")
    limit = (memory or min(free // _SHARE, _MOST)) - JOINS_BYTES
    pinned = device.pin(address(np.frombuffer(arena.slabs, np.uint8)), len(arena.slabs))
    # One batch more than those under way: the loaders are filling it.
    digester, rate = _best(device, arena, most=max(1, min(limit // each, arena.count // (DEPTH + 1))))
    return Opened(digester, device.name if pinned else f"{device.name}, slabs not pinned", rate)


def cpu_rate(arena: Arena) -> float:
    """Bytes a second that the CPU digests, of the same slabs."""
    backend, slab = CpuBackend(), arena.slab(0)
    pieces = [slab[start : start + _PIECE] for start in range(0, len(slab), _PIECE)]

    def rate() -> float:
        started, count = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < _SECONDS or not count:
            backend.digests(pieces)
            count += 1
        return count * len(slab) / elapsed

    return max(_rounds(rate))


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
    batches = [1 << power for power in range(most.bit_length())]

    def rate_of(batch: int) -> float:
        digester.batch = batch
        return _rate(digester, arena)

    rounds = _rounds(lambda: [rate_of(batch) for batch in batches])
    rates = [max(of_one) for of_one in zip(*rounds, strict=True)]
    best, rate = next(pair for pair in zip(batches, rates, strict=True) if pair[1] >= _NEAR * max(rates))
    digester.close()
    return CudaDigester(arena, device, best), rate


def _rate(digester: CudaDigester, arena: Arena, seconds: float = _SECONDS) -> float:
    """Bytes a second, from slabs in pieces to digests, while slabs come as fast as they are free again."""
    pieces = [_PIECE] * (arena.slab_size // _PIECE) or [arena.slab_size]
    free, slabs = list(range(arena.count)), 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not slabs:
        while free and not digester.full:
            digester.take(Filled(0, free.pop(), pieces, continued=False, open=False))
        digested = digester.advance()
        free += [answer.slab for answer in digested]
        slabs += len(digested)
    drain(digester)
    return slabs * sum(pieces) / elapsed


def _rounds(measure: Callable[[], _Result], seconds: float = _WHILE) -> list[_Result]:
    """Measurements for a while: clocks rise under load alone, and others take their share. The best ones count."""
    results, until = [measure()], time.perf_counter() + seconds
    while time.perf_counter() < until:
        results.append(measure())
    return results


def _states(runtime: Any, count: int) -> Iterator[tuple[int, _State]]:
    """The GPUs that NVML can tell about. It is not everywhere (WSL, containers), and not for every GPU."""
    try:
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:
        # NVML has errors of its own, and without it there is only less to say.
        return
    for index in range(count):
        with suppress(Exception):
            gpu = nvml.nvmlDeviceGetHandleByPciBusId(runtime.deviceGetPCIBusId(index))
            yield index, _State(nvml.nvmlDeviceGetName(gpu), nvml.nvmlDeviceGetMemoryInfo(gpu).free)


def _full(name: str, free: int, wanted: int) -> str:
    return f"{name} has only {free >> 20} MiB free; {wanted >> 20} MiB are asked for, to stay out of others' way"
