"""The GPUs of this process: queues of operations that run as late as they may, and what makes every call fail.

Only what CUDA promises is kept: two streams have no order but by events, the null stream waits for none, and a
poll of an event moves its stream by one operation, so that who polls gets there in the end.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar

from cupy import _settings
from cupy._errors import (
    INVALID_HANDLE,
    LAUNCH_FAILURE,
    NO_DEVICE,
    NOT_INITIALIZED,
    CUDADriverError,
    CUDARuntimeError,
    Hung,
)
from cupy._memory import DeviceMemory, HostMemory

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class Operation:
    """Something in a queue. `host`: the pinned memory that it reads or writes, where and how much."""

    def __init__(self, run: Callable[[], object], host: tuple[int, int] = (0, 0)) -> None:
        self._run = run
        self.host = host
        self.done_at: float | None = None

    def run(self) -> None:
        self._run()
        self.done_at = time.perf_counter()


class Queue:
    """What a stream has before it."""

    def __init__(self, handle: int, device: int) -> None:
        self.handle, self.device = handle, device
        self.operations: deque[Operation] = deque()

    def add(self, operation: Operation) -> None:
        self.operations.append(operation)
        if SETTINGS.order == "early":
            self.poll(len(self.operations))

    def wait(self, until: Operation | None = None) -> None:
        """Carry out all operations, or those up to one. Raises Hung where that takes for ever."""
        while self.operations and (until is None or until.done_at is None):
            self._step()

    def poll(self, count: int = 1) -> None:
        """Carry out so many operations, unless one never ends."""
        try:
            for _ in range(min(count, len(self.operations))):
                self._step()
        except Hung:
            pass

    def _step(self) -> None:
        operation = self.operations[0]
        try:
            operation.run()
        except Hung:
            raise
        except BaseException:
            self.operations.popleft()
            raise
        self.operations.popleft()


class Gpus:
    """All that this process knows of its GPUs."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.host = HostMemory()
        free = SETTINGS.memory if SETTINGS.free is None else SETTINGS.free
        self.memories = [DeviceMemory(SETTINGS.memory, free) for _ in range(SETTINGS.devices)]
        self._process: int | None = None
        self._queues = {(device, 0): Queue(0, device) for device in range(SETTINGS.devices)}
        self._here = threading.local()
        self._launches = 0
        #: Status of all calls from now on.
        self.lost: int | None = None

    def look(self) -> None:
        """Raises CUDARuntimeError where the GPU cannot be spoken with, a fork's child included."""
        if not self.memories:
            raise CUDARuntimeError(NO_DEVICE)
        if self._process is None:
            self._process = os.getpid()
        if os.getpid() != self._process:
            raise CUDARuntimeError(NOT_INITIALIZED)
        if SETTINGS.fail_after is not None and self._launches >= SETTINGS.fail_after and self.lost is None:
            self.lost = LAUNCH_FAILURE
        if self.lost is not None:
            raise CUDARuntimeError(self.lost)

    @property
    def current(self) -> int:
        """The calling thread's device."""
        return getattr(self._here, "device", 0)

    @current.setter
    def current(self, device: int) -> None:
        self._here.device = device

    @property
    def memory(self) -> DeviceMemory:
        return self.memories[self.current]

    def new_queue(self) -> Queue:
        queue = Queue(0x5EED0000 + 16 * len(self._queues), self.current)
        self._queues[queue.device, queue.handle] = queue
        return queue

    def queue(self, handle: int) -> Queue:
        """That of a stream of the current device, the only ones taken even where CUDA would not mind."""
        queue = self._queues.get((self.current, handle))
        if queue is None:
            raise CUDARuntimeError(INVALID_HANDLE)
        return queue

    def wait_all(self) -> None:
        """For the current device."""
        for queue in list(self._queues.values()):
            if queue.device == self.current:
                queue.wait()
        self.check()

    def check(self) -> None:
        """Raises AssertionError if a kernel wrote where it may not."""
        for memory in self.memories:
            memory.check()

    def check_idle(self, pointer: int, size: int) -> None:
        """Raises AssertionError if an operation under way needs this memory of the process."""
        for queue in self._queues.values():
            for first, count in (operation.host for operation in queue.operations):
                assert first >= pointer + size or pointer >= first + count, (
                    f"memory at {pointer:#x} is unregistered, but a copy of {count} bytes is still under way there"
                )

    def count_launch(self) -> bool:
        """Count one more, and do what is to happen at it; whether it never ends."""
        if SETTINGS.count_from is None or os.path.exists(SETTINGS.count_from):
            self._launches += 1
        if SETTINGS.counter is not None:
            path = SETTINGS.counter.replace("{pid}", str(os.getpid()))
            with open(path, "ab", buffering=0) as file:
                file.write(b".")
        if self._launches == SETTINGS.die_after:
            os.kill(os.getpid(), 9)
        return self._launches == SETTINGS.hang_after


def call(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Makes a function one of CUDA's: one at a time, failing when all fail, never returning when none would."""

    @wraps(function)
    def locked(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        try:
            with GPUS.lock:
                GPUS.look()
                return function(*args, **kwargs)
        except Hung:
            pass
        _hang()

    return locked


def driver_call(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Like `call`, for what CuPy does by the driver: with the driver's errors."""
    inner = call(function)

    @wraps(function)
    def translated(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        try:
            return inner(*args, **kwargs)
        except CUDARuntimeError as error:
            raise CUDADriverError(error.status) from None

    return translated


def _hang() -> NoReturn:
    """Wait for ever; other threads go on, but in this one no signal's handler runs, as in a driver's wait."""
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    while True:
        libc.pthread_mutex_lock(mutex)


SETTINGS = _settings.read()
GPUS = Gpus()
time.sleep(SETTINGS.open_seconds)
