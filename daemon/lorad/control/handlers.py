"""Which part of the daemon answers which request.

A status is answered at once from the newest one that the core left here; queries are answered in a thread of
theirs, audits and the doctor in another, so that none of them keeps the others waiting. What only the core, the
service that acts on files or the jobs can answer is handed on to them.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

import msgspec

from loracore.config import Config, Watch
from loracore.control import (
    MOST_EDITED,
    ActionRequest,
    Answer,
    Audit,
    Doctor,
    Examined,
    GetStatus,
    JobRequest,
    ListTags,
    Noted,
    NoteEdits,
    Refusal,
    Reply,
    Request,
    StartJob,
    Status,
    TagFiles,
    TagRequest,
    Wait,
)
from loracore.settings import grace_seconds
from lorad.control.dedupe_handlers import DedupeHandlers, Deduper
from lorad.control.queries import Queries, Query
from lorad.control.replies import BUSY, Give, Replies, described, done, failed, take
from lorad.dedupe.plan import Plan
from lorad.jobs.board import Owner
from lorad.watch.exclude import Exclude
from lorad.workers.thread import Worker


class JobRunner(Protocol):
    """Queues jobs, runs them and keeps their results."""

    def handle(self, request: JobRequest, reply: Reply, owner: Owner | None = None) -> None:
        """See to it that `reply` is called once, now or later, from any thread. Must not block.

        A job of an `owner` ends with it.
        """

    def gone(self, owner: Owner) -> None:
        """End the jobs of a client that is gone. Must not block."""


_LOG = logging.getLogger(__name__)

#: Queries, and audits with examinations, that may wait for the one before them.
_QUERIES, _EXAMINATIONS = 16, 4
#: Seconds that threads have to end.
_PATIENCE = 2.0


class Command(NamedTuple):
    """What only the core can do. `reply` is called once, from any thread, now or later.

    `Wait` is answered by `Waited`, `NoteEdits` by `Noted`. For `Audit`, the core calls `Handlers.audit` with what
    it watches.
    """

    request: Wait | Audit | TagRequest | NoteEdits
    reply: Reply


class Handlers:
    """`post` takes commands; it is called from a thread and must not block. See also `ControlServer`."""

    def __init__(
        self,
        runtime_dir: str,
        state_dir: str,
        post: Callable[[Command], None],
        deduper: Deduper | None,
        jobs: JobRunner | None,
    ) -> None:
        self._runtime_dir = runtime_dir
        self._state_dir = state_dir
        self._post = post
        self._status: tuple[Status, float] | None = None
        self._queries = Queries(state_dir)
        self.lock_by = self._queries.planner.lock_by
        self._exclude = Exclude()
        self._grace = math.inf
        self._query_worker = Worker("lorad-queries", _QUERIES, idle=self._queries.rest, last=self._queries.close)
        self._acting = DedupeHandlers(self._queries, deduper) if deduper else None
        self._jobs = jobs
        self._examiner = Worker("lorad-examinations", _EXAMINATIONS)
        self._replies = Replies()

    def start(self) -> None:
        self._query_worker.start()
        self._examiner.start()

    def stop(self) -> None:
        self._query_worker.stop(_PATIENCE)
        self._examiner.stop(_PATIENCE)

    # From any thread

    def set_status(self, status: Status) -> None:
        """What is answered to whoever asks from now on."""
        self._status = status, time.monotonic()

    def use(self, config: Config) -> None:
        """Plan by this configuration from now on, and explain by it."""
        self._queries.planner.use(config)
        self._grace = grace_seconds(config.dedupe.grace)
        self._exclude = Exclude(config.watch.exclude, list(map(os.fsencode, config.watch.roots)))
        self._queries.hashes_on_arrival = config.hashes.on_arrival

    def plan_for(self, newcomers: Collection[bytes], give: Callable[[Plan | Refusal], None]) -> None:
        """What the policy makes of newcomers that the catalogue has; `give` is called in another thread.

        `Plan.due_ns` says when to ask again for those that are too young; those that are not read to their end
        (`Plan.skipped`) may be asked for in a later generation.
        """
        if not self._query_worker.submit(lambda: give(done(None, lambda: self._queries.plan_for(newcomers)))):
            give(BUSY)

    def audit(self, watch: Watch, look_again: Callable[[bytes], None], reply: Reply) -> None:
        """Compare these folders with the catalogue and the JSON files, see `lorad.checks.audit.audit`."""

        def job() -> Answer:
            from lorad.checks.audit import audit  # noqa: PLC0415 - seldom asked for

            return audit(self._state_dir, watch, look_again)

        if not self._examiner.submit(lambda: reply(done(Audit(), job))):
            reply(BUSY)

    # From the control thread

    def answer(self, request: Request, later: Give, owner: Owner | None = None) -> Answer | None:
        """The answer, if it can be given at once; else `later` is called with it, once, from any thread.

        `owner` is whose job it is that the request begins, where it is known when that client goes.
        """
        try:
            return self._answer(request, later, owner)
        except Exception as error:
            # A mistake costs one request its answer, not the thread.
            _LOG.exception("a request failed: %s", described(request))
            return failed(error)

    def gone(self, owner: Owner) -> None:
        """A client is gone; jobs that are its own end."""
        if self._jobs is not None:
            self._jobs.gone(owner)

    def _answer(self, request: Request, later: Give, owner: Owner | None) -> Answer | None:
        match request:
            case GetStatus():
                return self._present_status()
            case Wait() | Audit() | TagFiles() | ListTags():
                return self._replies.hand_on(request, later, lambda reply: self._post(Command(request, reply)))
            case NoteEdits():
                return self._note(request)
            case Doctor():
                taken = self._examiner.submit(lambda: later(done(request, self._examine)))
            case _ if isinstance(request, ActionRequest):
                return self._act(request, later)
            case _ if isinstance(request, JobRequest):
                return self._about_jobs(request, later, owner)
            case _:
                query: Query = request
                taken = self._query_worker.submit(lambda: later(done(query, lambda: self._queries.answer(query))))
        return None if taken else BUSY

    def _present_status(self) -> Answer:
        if self._status is None:
            return Refusal("loading", "the daemon is starting; ask again in a moment")
        status, since = self._status
        return msgspec.structs.replace(
            status, uptime_seconds=round(status.uptime_seconds + time.monotonic() - since, 3)
        )

    def _note(self, request: NoteEdits) -> Answer:
        """The client does not wait for the core; so many may wait for it as of other requests."""
        if len(request.files) > MOST_EDITED:
            return Refusal("malformed", f"{len(request.files)} files at once; give at most {MOST_EDITED}")
        refused = self._replies.hand_on(
            request, lambda answer: None, lambda reply: self._post(Command(request, reply))
        )
        return refused or Noted()

    def _about_jobs(self, request: JobRequest, later: Give, owner: Owner | None) -> Answer | None:
        jobs = self._jobs
        if jobs is None:
            return Refusal("unknown-job", "this daemon runs no jobs; give --local to do it yourself")
        if owner is not None and isinstance(request, StartJob) and not request.detach:
            owner.owns = True
        else:
            owner = None
        return self._replies.hand_on(request, later, lambda reply: jobs.handle(request, reply, owner))

    def _act(self, request: ActionRequest, later: Give) -> Answer | None:
        acting = self._acting
        if acting is None:
            return Refusal("read-only", "this daemon does not act on files; it only plans")

        def act(reply: Reply) -> None:
            if not self._query_worker.submit(lambda: take(request, lambda: acting.handle(request, reply), reply)):
                reply(BUSY)

        return self._replies.hand_on(request, later, act)

    def _examine(self) -> Examined:
        from lorad.checks.doctor import examine  # noqa: PLC0415 - seldom asked for

        roots, hashing = (self._status[0].roots, self._status[0].hashing) if self._status else ([], None)
        policy = self._queries.planner.running
        folders = self._state_dir, self._runtime_dir
        return examine(*folders, roots, policy, hashing, exclude=self._exclude, grace=self._grace)
