"""Jobs in a running daemon: clients' requests on one side, worker processes on the other.

One job that is short and one of the others run at a time, so that who looks at a file does not wait for a merge.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from loracore.config import Jobs as Settings
from loracore.control import (
    PAGE_BYTES,
    Answer,
    CancelJob,
    Event,
    GetResult,
    JobEnded,
    JobProgress,
    JobRequest,
    JobResult,
    Jobs,
    JobStarted,
    JobState,
    ListJobs,
    Refusal,
    Reply,
    StartJob,
)
from loracore.errors import LoraError, StateError
from loracore.identity import Edited
from loracore.jobs import job as finding
from lorad.jobs.board import KEPT, Board, Entry, Owner
from lorad.jobs.results import KeptResult
from lorad.workers.job import JobProcess
from lorad.workers.thread import Worker
from lorad.workers.worker import Failed, Order, Progress, Result

_LOG = logging.getLogger(__name__)

#: Requests that may wait for the thread that answers them.
_REQUESTS = 256
#: Seconds that a cancelled job has to end by itself, and a running one when the daemon ends.
_GRACE, _PATIENCE = 5.0, 2.0


class JobService:
    """Serves clients (`lorad.control.handlers.JobRunner`). `tell` hears how jobs are, in any thread.

    `running` hears whether one runs, in a thread of ours: what can wait gives way to it. `edited` hears of files
    that one has edited, in a thread of ours, too.
    """

    def __init__(
        self,
        state_dir: str,
        settings: Settings,
        tell: Callable[[Event], None],
        *,
        running: Callable[[bool], None] = lambda _: None,
        edited: Callable[[Sequence[Edited]], None] = lambda files: None,
        grace: float = _GRACE,
        room: int = KEPT,
    ) -> None:
        self._state_dir = state_dir
        self._settings = settings
        self._tell = tell
        self._tell_running = running
        self._tell_edited = edited
        self._grace = grace
        self._board = Board(room=room)
        self._places: dict[str, finding.Place] = {}
        self._running: dict[int, JobProcess] = {}
        self._stopping = False
        #: Guards the board and what runs.
        self._changed = threading.Condition()
        self._clerk = Worker("lorad-jobs", _REQUESTS)
        #: Clients that are gone, whose jobs are to end.
        self._gone: deque[Owner] = deque()
        self._threads = [
            threading.Thread(target=self._run, args=(short,), name=name, daemon=True)
            for name, short in (("lorad-job", False), ("lorad-short-job", True))
        ]

    # For the core

    def start(self) -> None:
        self._clerk.start()
        for thread in self._threads:
            thread.start()

    def use(self, settings: Settings) -> None:
        """Go by these settings, from the next job on. From any thread."""
        self._settings = settings

    def tidy(self) -> None:
        """Forget what ended long ago. From any thread."""
        with self._changed:
            self._board.tidy()

    def stop(self) -> None:
        """Ask what runs to end, and end it."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            running = list(self._running.values())
        for process in running:
            process.cancel()
        self._clerk.stop(_PATIENCE)
        alive = [thread for thread in self._threads if thread.is_alive()]
        for thread in alive:
            thread.join(_PATIENCE)
        for process in running:
            process.kill()
        for thread in alive:
            thread.join(_PATIENCE)
        with self._changed:
            self._board.close()

    # For clients

    def handle(self, request: JobRequest, reply: Reply, owner: Owner | None = None) -> None:
        """See to it that `reply` is called once. Never blocks. A job that is begun ends with its owner."""

        def job() -> None:
            try:
                answer = self._answer(request, reply, owner)
            except Exception as error:
                reply(Refusal("failed", f"{type(error).__name__}: {error}; the daemon's log says more"))
                raise
            if answer is not None:
                reply(answer)
            self._end_orphans()

        if not self._clerk.submit(job):
            reply(Refusal("busy", "too much is asked about jobs; try again"))

    def gone(self, owner: Owner) -> None:
        """End the jobs of a client that is gone. Never blocks."""
        self._gone.append(owner)
        # Where too much is asked to take this in, what is asked sees to it.
        self._clerk.submit(self._end_orphans)

    def _end_orphans(self) -> None:
        while self._gone:
            owner = self._gone.popleft()
            with self._changed:
                orphans = self._board.of(owner)
            for entry in orphans:
                _LOG.info("job %d, %s, ends: its client is gone", entry.id, entry.place.name)
                self._cancel(entry)

    def _answer(self, request: JobRequest, reply: Reply, owner: Owner | None) -> Answer | None:
        match request:
            case StartJob():
                return self._started(request, owner)
            case ListJobs():
                with self._changed:
                    self._board.tidy()
                    return Jobs(list(self._board.states()))
        with self._changed:
            entry = self._board.get(request.id)
            if entry is None:
                text = f"there is no job {request.id} (any more); `loractl jobs` shows those there are"
                return Refusal("not-found", text)
            if isinstance(request, GetResult):
                return _part(entry, request.offset)
            if entry.is_over:
                return self._board.state(entry)
            entry.waiters.append(reply)
        if isinstance(request, CancelJob):
            self._cancel(entry)
        return None

    def _started(self, request: StartJob, owner: Owner | None) -> Answer:
        try:
            place = self._places.get(request.name) or finding.find(request.name)
        except LoraError as error:
            return Refusal("unknown-job", f"the daemon: {error}")
        self._places[request.name] = place
        with self._changed:
            if owner is not None and owner.closed:
                return Refusal("failed", "the client is gone")
            entry = self._board.add(place, request.parameters, request.summary, owner)
            if entry is None:
                return Refusal("busy", "too many jobs wait already; try again later, or give --local")
            self._changed.notify_all()
            return JobStarted(entry.id, self._board.ahead_of(entry))

    def _cancel(self, entry: Entry) -> None:
        with self._changed:
            process = self._running.get(entry.id)
            waits = entry.state == "waiting"
            if waits:
                self._board.end(entry, "cancelled")
        if waits:
            self._ended(entry)
        elif process is not None:
            process.cancel()

    # The threads that run them

    def _run(self, short: bool) -> None:
        while True:
            with self._changed:
                while not self._stopping and (entry := self._board.next(short=short)) is None:
                    self._changed.wait()
                if self._stopping:
                    return
                assert entry is not None
                parameters = entry.parameters
                # From the moment that it waits no more, it is this that is cancelled.
                process = JobProcess(self._grace, os.path.join(self._state_dir, "cache"))
                self._running[entry.id] = process
                self._tell_running(True)
            try:
                self._carry_out(entry, parameters, process)
            except Exception as error:
                # One job is not to end the thread that runs all.
                _LOG.exception("job %d, %s, failed: %s", entry.id, entry.place.name, entry.summary)
                self._end(entry, Failed("crashed", f"{type(error).__name__}: {error}"), None)
            with self._changed:
                self._tell_running(bool(self._running))

    def _carry_out(self, entry: Entry, parameters: bytes, process: JobProcess) -> None:
        _LOG.debug("job %d, %s, begins", entry.id, entry.place.name)
        try:
            result = KeptResult(self._state_dir)
        except StateError as error:
            self._end(entry, Failed("crashed", str(error)), None)
            return
        settings = self._settings
        order = Order(
            place=entry.place,
            parameters=parameters,
            result_fd=result.fd,
            threads=settings.threads or len(os.sched_getaffinity(0)),
            memory=(settings.memory_limit_mb << 20) or _half_of_memory(),
        )
        self._tell(JobProgress(entry.id, 0, 0, ""))

        def progress(now: Progress) -> None:
            with self._changed:
                entry.done, entry.total, entry.what = now.done, now.total, now.what
            self._tell(JobProgress(entry.id, now.done, now.total, now.what))

        self._end(entry, process.run(order, progress, self._tell_edited), result)

    def _end(self, entry: Entry, last: Result | Failed, result: KeptResult | None) -> None:
        with self._changed:
            self._running.pop(entry.id, None)
            match last:
                case Result(size):
                    assert result is not None
                    result.size = size
                    self._board.end(entry, "done", result=result)
                case Failed(code, text):
                    if result is not None:
                        result.close()
                    if code == "cancelled":
                        self._board.end(entry, "cancelled")
                    else:
                        self._board.end(entry, "failed", code=code, error=text)
        self._ended(entry)

    def _ended(self, entry: Entry) -> None:
        with self._changed:
            state = self._board.state(entry)
            waiters, entry.waiters = entry.waiters, []
        _log_end(state)
        self._tell(JobEnded(state.id, state.state))
        for waiter in waiters:
            waiter(state)


def _part(entry: Entry, offset: int) -> Answer:
    result = entry.result
    if not isinstance(result, KeptResult):
        why = "is not kept any more" if entry.state == "done" else f"is not there: the job is {entry.state}"
        return Refusal("not-found", f"the result of job {entry.id} {why}")
    if not 0 <= offset <= result.size:
        return Refusal("malformed", f"the result of job {entry.id} has {result.size} bytes, not {offset}")
    return JobResult(entry.id, offset, result.size, result.part(offset, PAGE_BYTES))


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _log_end(state: JobState) -> None:
    if state.state == "failed":
        what = f"{state.name} {state.summary}".rstrip()
        _LOG.warning("job %d, %s, failed after %.1f s: %s", state.id, what, state.seconds, state.error)
    else:
        _LOG.debug("job %d, %s, is %s after %.1f s", state.id, state.name, state.state, state.seconds)
