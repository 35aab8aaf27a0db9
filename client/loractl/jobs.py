"""Running jobs: by the daemon, beside the data, or in this process. The same code, the same result.

    result = run_job("metadata", MetadataParameters(absolute(path)), MetadataResult, connect=Client)

What is asked of the daemon comes back to the one who asks: exports are written by the client, with the rights of
its user. Ctrl-C cancels a job in either place, and a job of a client that is gone ends. `detach` begins one that
goes on by itself: `loractl jobs` shows it, and its result is kept for an hour.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from loracore.control import JobProgress, StartJob
from loracore.control.jobs import check_ended
from loracore.errors import JobFailed, NoDaemonError, RefusedError
from loracore.framing import unpacked
from loracore.jobs import job
from loracore.jobs.job import Alone, encoded
from loractl.edits import EditNotes
from loractl.view.tables import count

if TYPE_CHECKING:
    from loractl.client import Client

#: Hears how far a job is: done, of how many, and what it is at. A total of 0 is one that is not known.
Told = Callable[[float, float, str], None]
#: What a daemon says that cannot do a job: an older one, one without the package, one that may not read the file.
_CANNOT = ("unknown-job", "unknown-request", "missing", "unreadable")

R = TypeVar("R", bound=msgspec.Struct)


class Connect(Protocol):
    """Opens a client. Raises NoDaemonError."""

    def __call__(self) -> Client: ...


def threads() -> int:
    """How many threads a job may use here."""
    return len(os.sched_getaffinity(0))


def run_job(
    name: str,
    parameters: msgspec.Struct,
    result: type[R],
    *,
    connect: Connect | None = None,
    told: Told | None = None,
    summary: str = "",
) -> R:
    """Have a job done, and return its result.

    By the daemon that `connect` leads to, if there is one that has the job and may use its files; else in this
    process. `told` hears how far it is; `summary` says in a few words what it is about, for `loractl jobs`.
    Raises LoraError, as the job does, MissingPackage where neither has what it needs, and NoDaemonError when the
    daemon ends meanwhile.
    """
    daemon = _reached(connect)
    if daemon is None:
        return run_here(name, parameters, result, told)
    with daemon:
        try:
            answer = _asked(daemon, StartJob(name, encoded(parameters), summary), told)
        except (RefusedError, JobFailed) as error:
            if error.code not in _CANNOT:
                raise
            return run_here(name, parameters, result, told)
    return unpacked(answer, result)


def detach(name: str, parameters: msgspec.Struct, *, connect: Connect, summary: str = "") -> int:
    """Have the daemon begin a job that does not end with this process; its number. Raises LoraError."""
    with connect() as daemon:
        return daemon.start_job(name, encoded(parameters), summary, detach=True).id


def run_here(name: str, parameters: msgspec.Struct, result: type[R], told: Told | None = None) -> R:
    """Do a job in this process. Raises LoraError, as the job does, and MissingPackage."""
    place = job.find(name)
    job.use_one_thread_each(os.environ)
    with EditNotes() as notes:
        answer = job.work(place, encoded(parameters), Alone(threads(), told, notes.note))
    return unpacked(answer, result)


def _reached(connect: Connect | None) -> Client | None:
    if connect is None:
        return None
    try:
        return connect()
    except NoDaemonError:
        return None


def _asked(daemon: Client, request: StartJob, told: Told | None) -> bytes:
    """The result of a job that the daemon is asked for. Raises JobFailed."""

    def progress(event: JobProgress) -> None:
        assert told is not None
        told(event.done, event.total, event.what)

    number = 0
    interrupts = _Deferred()
    try:
        try:
            started = daemon.start_job(request.name, request.parameters, request.summary)
            number = started.id
        finally:
            interrupts.end()
        if told is not None and started.ahead:
            told(0, 0, f"waiting for {count(started.ahead, 'other job')}")
        state = daemon.wait_job(number, progress=progress if told is not None else None)
    except KeyboardInterrupt:
        if number:
            daemon.cancel_job(number)
        raise
    check_ended(state)
    return daemon.job_result(number)


class _Deferred:
    """Ctrl-C is not heard before `end`: nobody could cancel a job whose number was not answered yet."""

    def __init__(self) -> None:
        self._came = False
        self._ours = threading.current_thread() is threading.main_thread()
        if self._ours:
            self._before = signal.signal(signal.SIGINT, self._note)

    def end(self) -> None:
        """Raises KeyboardInterrupt, if there was one."""
        if self._ours:
            signal.signal(signal.SIGINT, self._before or signal.default_int_handler)
        if self._came:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = True
