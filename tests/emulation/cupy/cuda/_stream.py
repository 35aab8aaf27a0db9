"""Streams and events, and which stream is the current one."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from cupy._errors import INVALID_HANDLE, NOT_READY, CUDARuntimeError
from cupy._gpu import GPUS, Operation, Queue, call

_here = threading.local()


class Event:
    """A place in a stream: that of the latest `record`. Done while it has none."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        GPUS.look()
        self._timing = not disable_timing
        self._queue: Queue | None = None
        self._mark: Operation | None = None

    @call
    def record(self, stream: Stream | None = None) -> None:
        self._queue = current_queue() if stream is None else GPUS.queue(stream.ptr)
        self._mark = Operation(lambda: None)
        self._queue.add(self._mark)

    @property
    @call
    def done(self) -> bool:
        if self._queue is None or self._mark is None:
            return True
        if self._mark.done_at is not None:
            return True
        self._queue.poll()
        return False

    @call
    def synchronize(self) -> None:
        if self._queue is not None:
            self._queue.wait(self._mark)
        GPUS.check()

    def _waiting(self) -> Operation:
        """An operation of another stream that waits for what is recorded now."""
        queue, mark = self._queue, self._mark
        return Operation(lambda: queue.wait(mark) if queue is not None else None)

    def _time(self) -> float:
        if not self._timing or self._mark is None:
            raise CUDARuntimeError(INVALID_HANDLE)
        if self._mark.done_at is None:
            raise CUDARuntimeError(NOT_READY)
        return self._mark.done_at


@call
def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """In milliseconds, of this emulation."""
    return 1000 * (end_event._time() - start_event._time())


class Stream:
    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        with GPUS.lock:
            GPUS.look()
            self._queue = GPUS.queue(0) if null else GPUS.new_queue()
        self.ptr, self.device_id = self._queue.handle, self._queue.device
        self._before: list[Stream | None] = []

    @call
    def synchronize(self) -> None:
        self._queue.wait()
        GPUS.check()

    @property
    @call
    def done(self) -> bool:
        if not self._queue.operations:
            return True
        self._queue.poll()
        return False

    @call
    def wait_event(self, event: Event) -> None:
        self._queue.add(event._waiting())

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def use(self) -> Self:
        if self.device_id != GPUS.current:
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) does not match with the current "
                f"device ({GPUS.current})"
            )
        _streams()[self.device_id] = self
        return self

    def __enter__(self) -> Self:
        self._before.append(_streams().get(self.device_id))
        return self.use()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _streams()[self.device_id] = self._before.pop()


def _streams() -> dict[int, Stream | None]:
    """The calling thread's, of each device; None is the null stream."""
    if not hasattr(_here, "streams"):
        _here.streams = {}
    streams: dict[int, Stream | None] = _here.streams
    return streams


def get_current_stream() -> Stream:
    return _streams().get(GPUS.current) or Stream(null=True)


def current_queue() -> Queue:
    stream = _streams().get(GPUS.current)
    return GPUS.queue(0 if stream is None else stream.ptr)
