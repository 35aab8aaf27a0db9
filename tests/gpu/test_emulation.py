"""The emulated GPU catches what a real one would punish, or worse, let pass."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.gpu.conftest import emulated_environment
from tests.gpu.test_kernel import NOISE, SOURCE, SPAN, Kernel, Piece, expected

Emulated = Callable[..., ModuleType]

#: A kernel that is wrong in a way of one's choice.
WRONG = """
typedef unsigned int u32;
extern "C" __global__ void fill(unsigned char *memory, u32 place) { memory[place] = 1; }
extern "C" __global__ void part(u32 *memory, u32 lane) { if (threadIdx.x != lane) __syncthreads(); }
"""


def run(cupy: ModuleType, name: str, *arguments: np.generic) -> None:
    """Launch one of `WRONG` and wait for it."""
    kernel = cupy.RawModule(code=WRONG, options=("-std=c++17",)).get_function(name)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        kernel((1,), (4,), arguments)
        stream.synchronize()


def failing(cupy: ModuleType, status: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError) as caught:
        call(*arguments)
    assert caught.value.status == status


def there_and_back(cupy: ModuleType, memory: Any, later: int) -> bytes:
    """Copy pinned memory in, change it to `later` before anybody waited, and read what the GPU got."""
    stream, size = cupy.cuda.Stream(non_blocking=True), len(memory)
    place, back = cupy.cuda.runtime.malloc(size), np.zeros(size, np.uint8)
    cupy.cuda.runtime.memcpyAsync(place, memory.ctypes.data, size, 1, stream.ptr)
    memory[:] = later
    cupy.cuda.runtime.memcpyAsync(back.ctypes.data, place, size, 2, stream.ptr)
    return back.tobytes()


@pytest.mark.parametrize(("order", "arrives"), [("late", b"\2"), ("early", b"\1")])
def test_pinned_memory_changed_too_early_arrives_changed(emulated: Emulated, order: str, arrives: bytes) -> None:
    """A copy from pinned memory reads it when the stream gets there; asked to, the emulation hurries."""
    cupy = emulated(order=order)
    memory = np.frombuffer(cupy.cuda.alloc_pinned_memory(1000), np.uint8, 1000)
    memory[:] = 1
    assert there_and_back(cupy, memory, 2) == arrives * 1000


def test_memory_that_is_not_pinned_is_read_before_the_copy_returns(emulated: Emulated) -> None:
    """As CUDA stages it, until it is registered."""
    cupy = emulated()
    memory = np.ones(5000, np.uint8)
    assert there_and_back(cupy, memory, 2) == b"\1" * 5000
    cupy.cuda.runtime.hostRegister(memory.ctypes.data, 5000, 0)
    assert there_and_back(cupy, memory, 3) == b"\3" * 5000


def test_pinned_memory_given_up_too_early_arrives_spoiled(emulated: Emulated) -> None:
    """CuPy's pool gives it to the next one, whatever copies are under way."""
    cupy = emulated()
    stream, back = cupy.cuda.Stream(non_blocking=True), np.zeros(64, np.uint8)
    place = cupy.cuda.runtime.malloc(64)
    memory = cupy.cuda.alloc_pinned_memory(64)
    np.frombuffer(memory, np.uint8, 64)[:] = 1
    cupy.cuda.runtime.memcpyAsync(place, memory.ptr, 64, 1, stream.ptr)
    del memory
    cupy.cuda.runtime.memcpyAsync(back.ctypes.data, place, 64, 2, stream.ptr)
    assert 1 not in back


def test_streams_have_no_order_but_by_events(emulated: Emulated) -> None:
    """One stream's work is not seen by another that did not wait for it; polling moves it on."""
    cupy = emulated()
    place, back = cupy.cuda.runtime.malloc(8), np.zeros(8, np.uint8)
    first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    cupy.cuda.runtime.memsetAsync(place, 7, 8, first.ptr)
    event = first.record(cupy.cuda.Event(block=True, disable_timing=True))
    cupy.cuda.runtime.memcpyAsync(back.ctypes.data, place, 8, 2, second.ptr)
    assert back.tobytes() == b"\xa5" * 8
    second.wait_event(event)
    cupy.cuda.runtime.memcpyAsync(back.ctypes.data, place, 8, 2, second.ptr)
    assert back.tobytes() == b"\7" * 8
    cupy.cuda.runtime.memsetAsync(place, 7, 8, first.ptr)
    event.record(first)
    assert [event.done for _ in range(4)] == [False, False, True, True]


def test_copies_past_an_allocation_are_refused(emulated: Emulated) -> None:
    """A copy lies within one live allocation, in the direction it says."""
    cupy = emulated()
    stream, memory, place = cupy.cuda.Stream(), np.zeros(4096, np.uint8), cupy.cuda.runtime.malloc(1000)
    copy = cupy.cuda.runtime.memcpyAsync
    for target, size, kind in ((place, 1001, 1), (place - 1, 8, 1), (place, 8, 2), (place, 8, 3)):
        failing(cupy, 1, copy, target, memory.ctypes.data, size, kind, stream.ptr)
    cupy.cuda.runtime.free(place)
    failing(cupy, 1, copy, place, memory.ctypes.data, 8, 1, stream.ptr)


def test_memory_is_bounded(emulated: Emulated) -> None:
    """What others hold is not free, and what is not free cannot be had."""
    runtime = (cupy := emulated(memory=1 << 20, free=1000)).cuda.runtime
    place = runtime.malloc(600)
    assert runtime.memGetInfo() == (400, 1 << 20)
    failing(cupy, 2, runtime.malloc, 401)
    runtime.free(place)
    assert runtime.memGetInfo() == (1000, 1 << 20)


def test_host_memory_is_registered_once_and_not_let_go_while_needed(emulated: Emulated) -> None:
    """Nor where the system does not allow it."""
    runtime = (cupy := emulated()).cuda.runtime
    memory, place, stream = np.zeros(10000, np.uint8), cupy.cuda.runtime.malloc(100), cupy.cuda.Stream()
    where = memory.ctypes.data
    runtime.hostRegister(where, 10000, 0)
    failing(cupy, 712, runtime.hostRegister, where + 500, 100, 0)
    cupy.cuda.runtime.memcpyAsync(place, where, 100, 1, stream.ptr)
    with pytest.raises(AssertionError, match="still under way"):
        runtime.hostUnregister(where)
    failing(cupy, 713, runtime.hostUnregister, where)
    failing(cupy := emulated(refuse_register=True), 801, cupy.cuda.runtime.hostRegister, where, 100, 0)


def test_a_kernel_that_writes_past_its_memory_is_caught(emulated: Emulated) -> None:
    """A little past the end is noticed afterwards; far past is an illegal access, after which nothing works."""
    cupy = emulated()
    place = cupy.cuda.runtime.malloc(100)
    with pytest.raises(AssertionError, match="wrote past"):
        run(cupy, "fill", np.uint64(place), np.uint32(100))
    cupy = emulated()
    place = cupy.cuda.runtime.malloc(100)
    failing(cupy, 700, run, cupy, "fill", np.uint64(place), np.uint32(mmap.PAGESIZE + 100))
    failing(cupy, 700, cupy.cuda.runtime.memGetInfo)


def test_lanes_that_part_at_a_barrier_are_caught(emulated: Emulated) -> None:
    """A lane that ends while others wait."""
    with pytest.raises(AssertionError, match="barrier"):
        run(emulated(), "part", np.uint64(0), np.uint32(2))


def test_a_missing_barrier_shows_in_some_order_of_the_lanes(emulated: Emulated) -> None:
    """Without either of the kernel's barriers a digest is wrong, first to last or last to first."""
    pieces = [Piece(0, SPAN), Piece(1, SPAN - 1)]
    barrier = "    __syncthreads();\n"
    before, between, after = SOURCE.split(barrier)
    for source in (before + between + barrier + after, before + barrier + between + after):
        digests = [Kernel(emulated(lanes=lanes), source).digest(NOISE, pieces) for lanes in (0, -1)]
        assert digests != [expected(NOISE, pieces)] * 2


def test_a_gpu_that_vanished_fails_every_call(emulated: Emulated) -> None:
    """With the runtime's error, or, for what goes through the driver, with the driver's."""
    cupy = emulated(fail_after=1)
    kernel = Kernel(cupy)
    failing(cupy, 719, kernel.digest, NOISE, [Piece(0, 1)])
    failing(cupy, 719, cupy.cuda.runtime.free, 0)
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="CUDA_ERROR_LAUNCH_FAILED"):
        cupy.RawModule(code=SOURCE).get_function("chunks")


def test_a_machine_without_a_gpu_says_so(emulated: Emulated) -> None:
    """As CUDA does, by an error and not by nought."""
    cupy = emulated(devices=0)
    failing(cupy, 100, cupy.cuda.runtime.getDeviceCount)


CHILD = "import cupy; from tests.gpu.test_kernel import *; Kernel(cupy).digest(NOISE, [Piece(0, 2 * SPAN)])"


def child(**settings: object) -> subprocess.Popen[bytes]:
    """A process that launches two kernels on an emulated GPU."""
    environment = emulated_environment(**settings)
    environment["PYTHONPATH"] = f"{Path(__file__).parents[2]}:{environment['PYTHONPATH']}"
    return subprocess.Popen([sys.executable, "-c", CHILD], env=os.environ | environment)


@pytest.mark.usefixtures("cupy_compiles")
def test_launches_are_counted_by_process(tmp_path: Path) -> None:
    """A byte each in a file that may be the process's own."""
    process = child(counter=f"{tmp_path}/launches-{{pid}}")
    assert process.wait(60) == 0
    assert (tmp_path / f"launches-{process.pid}").read_bytes() == b".."


@pytest.mark.usefixtures("cupy_compiles")
def test_a_process_can_be_made_to_die_at_a_launch(tmp_path: Path) -> None:
    """By SIGKILL, after the launch was counted."""
    assert child(counter=f"{tmp_path}/launches", die_after=2).wait(60) == -signal.SIGKILL
    assert (tmp_path / "launches").read_bytes() == b".."


@pytest.mark.usefixtures("cupy_compiles")
def test_a_launch_can_be_made_to_hang() -> None:
    """Whoever waits for it waits for ever, deaf to all signals but SIGKILL."""
    process = child(hang_after=1)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL


@pytest.fixture
def cupy_compiles(emulated: Emulated) -> None:
    """Skips where the emulation does not work."""
    emulated()
