"""A GPU is used where it has room, digests rightly and is faster; else the CPU is, and the reason is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest

from lorad.pipeline.arena import Arena
from lorad.pipeline.cuda import opening
from lorad.pipeline.cuda.buffer import Sizes
from lorad.pipeline.cuda.opening import LITTLE, NoGpu, cpu_rate, open_gpu
from lorad.pipeline.cuda.plan import SPAN

Emulated = Callable[..., ModuleType]
MIB = 1 << 20


def new_arena(slabs: int = 8) -> Arena:
    arena = Arena.create(2 * SPAN, slabs)
    os.close(arena.fd)
    return arena


@pytest.fixture
def no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def nvml(free: list[int]) -> SimpleNamespace:
    """NVML as far as it is asked: GPUs by their place on the bus, and what is free on them."""
    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=lambda bus: int(bus.split(":")[1], 16) - 1,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(free=free[handle]),
    )


@pytest.mark.usefixtures("no_nvml")
def test_a_gpu_that_works_is_opened_with_its_speed(cupy: ModuleType) -> None:
    """It is tried on slabs and measured, and takes no more memory than it may."""
    arena = new_arena()
    opened = open_gpu(arena, 64 * MIB)
    assert opened.name
    assert opened.rate > 0
    assert 1 <= opened.digester.batch <= 4
    assert cpu_rate(arena) > 0


@pytest.mark.usefixtures("no_nvml")
def test_its_memory_is_bounded_by_what_is_free_and_by_what_is_allowed(emulated: Emulated) -> None:
    """Both buffers together stay within the limit that was set, or within a fiftieth of what is free."""
    cupy = emulated(memory=1 << 30)
    arena = new_arena(slabs=32)
    before = cupy.cuda.runtime.memGetInfo()[0]
    limit = 5 * 2 * Sizes(1, 2 * SPAN).device_bytes
    opened = open_gpu(arena, limit)
    assert before - cupy.cuda.runtime.memGetInfo()[0] <= limit
    opened.digester.close()
    open_gpu(arena)
    assert before - cupy.cuda.runtime.memGetInfo()[0] <= before / 50


@pytest.mark.usefixtures("no_nvml")
def test_a_gpu_with_little_free_memory_is_left_alone(emulated: Emulated) -> None:
    """Who serves models on it comes first."""
    emulated(memory=8 << 30, free=300 * MIB)
    with pytest.raises(NoGpu, match="only 300 MiB free; 512 MiB are asked for"):
        open_gpu(new_arena())


def test_a_full_gpu_is_not_even_entered(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML tells without the few hundred MiB that CUDA takes at once; nothing is allocated then."""
    emulated(devices=2)
    monkeypatch.setitem(sys.modules, "pynvml", nvml([LITTLE - 1, 5 * MIB]))
    monkeypatch.setattr(opening, "Device", pytest.fail)
    with pytest.raises(NoGpu, match="1023 MiB free; 1024 MiB are asked for"):
        open_gpu(new_arena())


def test_the_gpu_with_most_room_is_taken(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a server of several GPUs the busiest ones are left alone."""
    emulated(devices=3)
    monkeypatch.setitem(sys.modules, "pynvml", nvml([LITTLE, 3 * LITTLE, 2 * LITTLE]))

    def refuse(index: int) -> None:
        raise NoGpu(f"number {index}")

    monkeypatch.setattr(opening, "Device", refuse)
    with pytest.raises(NoGpu, match="number 1"):
        open_gpu(new_arena())


@pytest.mark.usefixtures("no_nvml")
def test_too_small_a_limit_says_which_is_enough(emulated: Emulated) -> None:
    """One slab on its way and one being digested are the least."""
    emulated()
    with pytest.raises(NoGpu, match="set gpu_memory_mb to 32"):
        open_gpu(new_arena(), 2 * Sizes(1, 2 * SPAN).device_bytes - 1)


@pytest.mark.usefixtures("no_nvml")
def test_a_gpu_that_digests_wrongly_is_not_used(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong digests could make different files look alike."""
    emulated()
    truth = opening.blake3
    monkeypatch.setattr(opening, "blake3", lambda data: truth(bytes(data[:-1]) + b"x"))
    with pytest.raises(NoGpu, match="digests wrongly"):
        open_gpu(new_arena())


@pytest.mark.usefixtures("no_nvml")
def test_slabs_that_cannot_be_pinned_are_copied_all_the_same(emulated: Emulated) -> None:
    """Slower, which its name then tells."""
    emulated(refuse_register=True)
    assert "not pinned" in open_gpu(new_arena()).name


def test_a_driver_without_a_gpu_is_told(emulated: Emulated) -> None:
    """As on a machine whose GPU was taken out."""
    emulated(devices=0)
    with pytest.raises(NoGpu, match="no GPU of NVIDIA's answers"):
        open_gpu(new_arena())
