"""A GPU is used where it has room, digests rightly and is faster; else the CPU is, and the reason is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lorad.pipeline.arena import Arena
from lorad.pipeline.cuda import driver, opening
from lorad.pipeline.cuda.buffer import Sizes
from lorad.pipeline.cuda.device import Device
from lorad.pipeline.cuda.digester import CudaDigester
from lorad.pipeline.cuda.joins import JOINS_BYTES
from lorad.pipeline.cuda.lanes import SPAN
from lorad.pipeline.cuda.opening import LITTLE, NoGpu, cpu_rate, open_gpu, roomiest
from lorad.pipeline.protocol import Digested
from tests.gpu.conftest import emulated_environment

Emulated = Callable[..., ModuleType]
MIB = 1 << 20
ARENAS: list[Arena] = []


def new_arena(slabs: int = 8) -> Arena:
    arena = Arena.create(2 * SPAN, slabs)
    os.close(arena.fd)
    # Memory that is pinned must stay where it is for as long as the emulated driver knows it.
    ARENAS.append(arena)
    return arena


@pytest.fixture
def no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def nvml(free: list[int | None]) -> SimpleNamespace:
    """NVML as far as it is asked: GPUs by their place on the bus, and what is free on them, or None: not told."""

    def memory(handle: int) -> SimpleNamespace:
        if free[handle] is None:
            raise RuntimeError("not supported")
        return SimpleNamespace(free=free[handle])

    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=lambda bus: int(bus.split(":")[1], 16) - 1,
        nvmlDeviceGetName=lambda handle: f"GPU {handle}",
        nvmlDeviceGetMemoryInfo=memory,
    )


@pytest.mark.usefixtures("no_nvml")
def test_a_gpu_that_works_is_opened_with_its_speed(cupy: ModuleType) -> None:
    """It is tried on slabs and measured, and takes no more memory than it may."""
    arena = new_arena()
    opened = open_gpu(arena, 0, 64 * MIB)
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
    limit = 5 * 2 * Sizes(1, 2 * SPAN).device_bytes + JOINS_BYTES
    opened = open_gpu(arena, 0, limit)
    assert before - cupy.cuda.runtime.memGetInfo()[0] <= limit
    opened.digester.close()
    open_gpu(arena, 0)
    assert before - cupy.cuda.runtime.memGetInfo()[0] <= before / 50


@pytest.mark.usefixtures("no_nvml")
def test_a_gpu_with_little_free_memory_is_left_alone(emulated: Emulated) -> None:
    """Who serves models on it comes first."""
    emulated(memory=8 << 30, free=300 * MIB)
    with pytest.raises(NoGpu, match="only 300 MiB free; 512 MiB are asked for"):
        open_gpu(new_arena(), 0)


def test_a_full_gpu_is_not_even_entered(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML tells without the few hundred MiB that CUDA takes at once; nothing is asked of the GPU then."""
    runtime = emulated(devices=2).cuda.runtime
    monkeypatch.setitem(sys.modules, "pynvml", nvml([LITTLE - 1, 5 * MIB]))
    for entering in ("setDevice", "getDeviceProperties", "memGetInfo"):
        monkeypatch.setattr(runtime, entering, pytest.fail)
    with pytest.raises(NoGpu, match="GPU 0 has only 1023 MiB free; 1024 MiB are asked for"):
        roomiest()


@pytest.mark.parametrize(
    ("free", "taken"),
    [
        ([LITTLE, 3 * LITTLE, 2 * LITTLE], 1),
        ([None, LITTLE, None], 1),
        ([LITTLE - 1, None, 5], 1),
        ([None, None, None], 0),
    ],
)
def test_the_gpu_with_most_room_is_taken(
    emulated: Emulated, monkeypatch: pytest.MonkeyPatch, free: list[int | None], taken: int
) -> None:
    """The busiest ones of a server are left alone. One that NVML cannot tell about is looked at when need be."""
    emulated(devices=3)
    monkeypatch.setitem(sys.modules, "pynvml", nvml(free))
    assert roomiest() == taken


@pytest.mark.usefixtures("no_nvml")
def test_two_batches_leave_slabs_for_the_loaders(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much memory there is: else copying and reading would take turns."""
    emulated()
    monkeypatch.setattr(opening, "_rate", lambda digester, arena: float(digester.batch))
    assert [open_gpu(new_arena(slabs), 0, MIB << 10).digester.batch for slabs in (3, 8, 16)] == [1, 2, 4]


def test_speed_is_measured_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that was idle is slow at first."""
    clock = iter(range(100))
    monkeypatch.setattr(opening, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    rates = iter([1.0, 3.0, 2.0, 1.0, 9.0])
    assert opening._rounds(lambda: next(rates), 4) == [1.0, 3.0, 2.0, 1.0]


def test_a_digester_is_kept_fed_while_it_is_measured(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in use: while slabs are to be had, one batch is put under way before the last one is waited for."""
    arena = new_arena(6)
    digester = CudaDigester(arena, Device(0), 2)
    under_way = []
    advance = digester.advance

    def watched() -> list[Digested]:
        digested = advance()
        under_way.append(len(digester))
        return digested

    monkeypatch.setattr(digester, "advance", watched)
    opening._rate(digester, arena, 0.3)
    assert min(under_way[2:-3]) > 2


@pytest.mark.usefixtures("no_nvml")
def test_too_small_a_limit_says_which_is_enough(emulated: Emulated) -> None:
    """One slab on its way and one being digested are the least."""
    emulated()
    with pytest.raises(NoGpu, match="set gpu_memory_mb to 32"):
        open_gpu(new_arena(), 0, 2 * Sizes(1, 2 * SPAN).device_bytes + JOINS_BYTES - 1)


@pytest.mark.usefixtures("no_nvml")
def test_a_gpu_that_digests_wrongly_is_not_used(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong digests could make different files look alike."""
    emulated()
    truth = opening.blake3
    monkeypatch.setattr(opening, "blake3", lambda data: truth(bytes(data[:-1]) + b"x"))
    with pytest.raises(NoGpu, match="digests wrongly"):
        open_gpu(new_arena(), 0)


@pytest.mark.usefixtures("no_nvml")
def test_slabs_that_cannot_be_pinned_are_copied_all_the_same(emulated: Emulated) -> None:
    """Slower, which its name then tells."""
    emulated(refuse_register=True)
    assert "not pinned" in open_gpu(new_arena(), 0).name


#: Opens a GPU beside a thread that counts, as the hasher does beside its beats; prints the longest pause in that.
OPENING = """
import threading, time
from lorad.pipeline.arena import Arena
from lorad.pipeline.cuda.opening import open_gpu, roomiest
counted = [time.monotonic()]
def count():
    while True:
        time.sleep(0.01)
        counted.append(time.monotonic())
arena = Arena.create(2 << 17, 3)
import cupy
threading.Thread(target=count, daemon=True).start()
open_gpu(arena, roomiest(), 1 << 26)
counted.append(time.monotonic())
print(counted[-1] - counted[0], max(after - before for before, after in zip(counted, counted[1:])))
"""


@pytest.mark.usefixtures("emulated")
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is missing, which builds the emulated driver")
def test_the_hasher_lives_on_while_cuda_starts() -> None:
    """CuPy would hold the interpreter's lock for as long as the driver takes; a silent hasher is ended."""
    environment = {**os.environ, **emulated_environment(driver_seconds=1)}
    command = [sys.executable, "-c", OPENING]
    took, pause = map(float, subprocess.check_output(command, env=environment, text=True).split())
    assert took > 2
    assert pause < 0.7


def test_a_driver_that_fails_is_not_started_again(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy would, for as long, and hold everything up; the driver's words are told."""
    runtime = emulated().cuda.runtime
    monkeypatch.setattr(runtime, "getDeviceCount", pytest.fail)

    def words(status: int, found: Any) -> None:
        found._obj.value = b"no CUDA-capable device is detected" if status == 100 else None

    broken = SimpleNamespace(cuInit=lambda flags: 100, cuGetErrorString=words)
    monkeypatch.setattr(driver, "_driver", lambda: broken)
    with pytest.raises(driver.DriverError, match="no CUDA-capable device is detected"):
        roomiest()


def test_a_driver_without_a_gpu_is_told(emulated: Emulated) -> None:
    """As on a machine whose GPU was taken out."""
    emulated(devices=0)
    with pytest.raises(NoGpu, match="CUDA finds none: cudaErrorNoDevice"):
        roomiest()
