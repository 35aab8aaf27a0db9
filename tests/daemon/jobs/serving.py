"""The daemon's jobs without the daemon: requests in, answers and events out."""

from __future__ import annotations

import os
import queue
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from loracore.config import Jobs as Settings
from loracore.control import (
    Answer,
    CancelJob,
    Event,
    GetResult,
    JobProgress,
    JobRequest,
    JobResult,
    JobStarted,
    JobState,
    StartJob,
    WaitJob,
)
from lorad.jobs.service import JobService
from tests.daemon.jobs.samples import Report, Task

SECONDS = 30
A = TypeVar("A", bound=Answer)


class Service:
    """`grace` is long enough for a job that hears, and short enough for a test of one that does not."""

    def __init__(
        self, folder: Path, settings: Settings | None = None, *, grace: float = 1.0, **bounds: int
    ) -> None:
        self.folder = folder
        self.events: queue.Queue[Event] = queue.Queue()
        self.jobs = JobService(str(folder), settings or Settings(2, 1024), self.events.put, grace=grace, **bounds)

    def asked(self, request: JobRequest) -> queue.Queue[Answer]:
        answers: queue.Queue[Answer] = queue.Queue()
        self.jobs.handle(request, answers.put)
        return answers

    def ask(self, request: JobRequest, kind: type[A]) -> A:
        answer = self.asked(request).get(timeout=SECONDS)
        assert isinstance(answer, kind), answer
        return answer

    def start(self, name: str, task: Task | None = None) -> int:
        return self.ask(StartJob(name, msgspec.msgpack.encode(task or Task()), "a sample"), JobStarted).id

    def wait(self, number: int) -> JobState:
        return self.ask(WaitJob(number), JobState)

    def cancel(self, number: int) -> JobState:
        return self.ask(CancelJob(number), JobState)

    def result(self, number: int) -> Report:
        whole = b""
        while True:
            answer = self.ask(GetResult(number, len(whole)), JobResult)
            whole += answer.part
            if len(whole) == answer.total:
                return msgspec.msgpack.decode(whole, type=Report)

    def run(self, name: str, task: Task | None = None) -> JobState:
        return self.wait(self.start(name, task))

    def heard(self, number: int, done: float) -> JobProgress:
        """Wait for the word that a job is so far."""
        while True:
            event = self.events.get(timeout=SECONDS)
            if isinstance(event, JobProgress) and (event.id, event.done) == (number, done):
                return event

    def fifo(self, name: str = "fifo") -> Task:
        """A task to wait at."""
        path = os.fsencode(self.folder / name)
        os.mkfifo(path)
        return Task(path=path)

    def __enter__(self) -> Self:
        self.jobs.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.jobs.stop()


def release(task: Task) -> None:
    """Let one go that holds at a FIFO."""
    with open(task.path, "wb") as fifo:
        fifo.write(b"go")
