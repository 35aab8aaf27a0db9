"""The thread that answers requests and sends events.

It owns the sockets. A status is answered at once from the newest one that the core left here; queries go to
a second thread, audits and the doctor to a third, so that none of them keeps the others waiting. Nothing
that comes in from a socket can end it, and what one client does not fetch is dropped for that client alone.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple, TypeVar, cast

import msgspec
import zmq

from loracore import config
from loracore.config import Config
from loracore.control import (
    Answer,
    Answered,
    ApplyDedupe,
    Audit,
    CancelJob,
    Doctor,
    Event,
    Examined,
    GetResult,
    GetSavings,
    GetStatus,
    ListHistory,
    ListJobs,
    Refusal,
    Request,
    StartJob,
    Status,
    UndoActions,
    Wait,
    WaitJob,
)
from loracore.errors import LoraError, StateError
from lorad.control.acting import Acting, Acts, Deduper, Reply
from lorad.control.curve import AllowList, answer_handshake
from lorad.control.events import Events
from lorad.control.jobs import JobRequest, JobRunner
from lorad.control.outbox import Outbox, Peer
from lorad.control.queries import Queries, Query
from lorad.control.requests import RefusedRequest, Requests
from lorad.control.sockets import LocalPlace, Pair, Socket, TcpPlace, open_zap
from lorad.control.worker import Worker
from lorad.dedupe.plan import Plan

_LOG = logging.getLogger(__name__)

#: Messages taken from one socket before the others have their turn.
_TURN = 64
#: Queries, and audits with examinations, that may wait for the one before them.
_QUERIES, _EXAMINATIONS = 16, 4
#: Requests that wait for the core.
_COMMANDS = 256
#: Milliseconds until answers that did not fit into their connection are tried again.
_RETRY = 2
#: Seconds that threads have to end.
_PATIENCE = 2.0
#: Seconds after which this thread gets its turn from one that computes. Python's own 5 ms, at each of an
#: answer's five system calls, would be more than a status may take.
_SWITCH_INTERVAL = 0.0005

_T = TypeVar("_T")


class Command(NamedTuple):
    """What only the core can do. `reply` is called once, from any thread, now or later.

    `wait` is answered by `Waited`. For `audit`, the core calls `ControlServer.audit` with its roots.
    """

    kind: Literal["wait", "audit"]
    reply: Reply


class _Asker(NamedTuple):
    """Who gets an answer: the request's number, and when it came."""

    peer: Peer
    number: int
    since: float


class _Wakeup:
    """Ends the thread's waiting. It lives as long as anybody could still signal."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def signal(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        os.eventfd_read(self.descriptor)

    def __del__(self) -> None:
        os.close(self.descriptor)


class ControlServer:
    """Made and started by the core, which holds the locks on both folders.

    `post` takes commands, `answered` how many seconds each answer took; both are called from threads and must
    not block. Without a `deduper`, files are not acted on and requests for that are refused; the same for `jobs`.
    """

    def __init__(
        self,
        runtime_dir: str,
        state_dir: str,
        settings: config.Control,
        post: Callable[[Command], None],
        *,
        answered: Callable[[float], None] | None = None,
        deduper: Deduper | None = None,
        jobs: JobRunner | None = None,
    ) -> None:
        self._runtime_dir = runtime_dir
        self._state_dir = state_dir
        self._settings = settings
        self._post = post
        self._answered = answered
        self._status: tuple[Status, float] | None = None
        self._queries = Queries(state_dir)
        self._query_worker = Worker("lorad-queries", _QUERIES, idle=self._queries.rest, last=self._queries.close)
        self._acting = Acting(self._queries, deduper) if deduper else None
        self._jobs = jobs
        self._examiner = Worker("lorad-examinations", _EXAMINATIONS)
        self._commands_waiting = 0
        self._lock = threading.Lock()
        self._outbox = Outbox()
        self._wakeup = _Wakeup()
        self._events = Events(self._wakeup.signal)
        self._requests = Requests()
        self._reload = self._stopping = False
        self._allowed: AllowList | None = None
        self._place: LocalPlace | None = None
        self._tcp: TcpPlace | None = None
        self._zap: Socket | None = None
        self._pairs: list[Pair] = []
        self._context: zmq.Context[Socket] | None = None
        self._thread = threading.Thread(target=self._run, name="lorad-control", daemon=True)

    # For the core

    def start(self) -> None:
        """Open the sockets and begin to answer. Raises StateError and UsageError."""
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL))
        self._context = zmq.Context()
        try:
            self._place = LocalPlace(self._runtime_dir, self._settings)
            self._pairs = [self._place.open(self._context)]
            if self._settings.tcp:
                keys_dir = self._settings.keys_dir or os.path.join(self._state_dir, "keys")
                self._tcp = TcpPlace(self._settings.tcp, keys_dir)
                self._allowed = AllowList(os.path.join(keys_dir, "allowed"))
                self._zap = open_zap(self._context)
                self._pairs.append(self._tcp.open(self._context))
        except LoraError:
            self._close()
            raise
        self._query_worker.start()
        self._examiner.start()
        self._thread.start()

    def stop(self) -> None:
        """Close the sockets and end the threads. Whoever still waits sees the connection end."""
        self._stopping = True
        if self._thread.is_alive():
            self._wakeup.signal()
            self._thread.join()
        self._query_worker.stop(_PATIENCE)
        self._examiner.stop(_PATIENCE)
        self._close()

    def set_status(self, status: Status) -> None:
        """What is answered to whoever asks from now on. From any thread."""
        self._status = status, time.monotonic()

    def use(self, config: Config) -> None:
        """Plan by this configuration from now on, and explain by it. From any thread."""
        self._queries.planner.use(config)
        self._queries.hashes_on_arrival = config.hashes.on_arrival

    def tell(self, event: Event) -> None:
        """Send an event. From any thread; never blocks."""
        self._events.tell(event)

    def reload(self) -> None:
        """Read the allowed keys again; connections whose key is not allowed any more are ended."""
        self._reload = True
        self._wakeup.signal()

    def plan_for(self, newcomers: Collection[bytes], give: Callable[[Plan | Refusal], None]) -> None:
        """What the policy makes of newcomers that the catalogue has. From any thread; `give` is called in another.

        `Plan.due_ns` says when to ask again for those that are too young; those that are not read to their end
        (`Plan.skipped`) may be asked for in a later generation.
        """
        if not self._query_worker.submit(lambda: give(_done(lambda: self._queries.plan_for(newcomers)))):
            give(_BUSY)

    def audit(self, roots: Sequence[bytes], follow: bool, reply: Reply) -> None:
        """Compare these folders with the catalogue and the JSON files, and reply. From any thread."""

        def job() -> Answer:
            from lorad.audit import audit  # noqa: PLC0415 - seldom asked for

            return audit(self._state_dir, roots, follow=follow)

        if not self._examiner.submit(lambda: reply(_done(job))):
            reply(_BUSY)

    @property
    def events_dropped(self) -> int:
        """How many events came faster than they could be sent."""
        return self._events.dropped

    # The thread

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
            except Exception:
                _LOG.exception("the control thread goes on after an error")
                time.sleep(0.1)

    def _turn(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wakeup.descriptor, zmq.POLLIN)
        for socket in [socket for pair in self._pairs for socket in pair] + ([self._zap] if self._zap else []):
            poller.register(socket, zmq.POLLIN)
        timeout: int | None = 0
        while not (self._stopping or self._reload):
            ready = dict(poller.poll(timeout))
            if self._wakeup.descriptor in ready:
                self._wakeup.clear()
            if self._zap in ready:
                self._shake_hands()
            for pair in self._pairs:
                if pair.requests in ready:
                    self._take_requests(pair.requests)
                if pair.events in ready:
                    self._take_subscriptions(pair.events)
            timeout = _RETRY if self._outbox.send() else None
            self._send_events()
        if self._reload and not self._stopping:
            self._reload = False
            self._reopen()

    def _reopen(self) -> None:
        """After a reload: libzmq cannot end one connection, so all by TCP are, if one has to be."""
        if self._allowed is None or self._tcp is None or not self._allowed.reload():
            return
        assert self._context is not None
        for pair in self._pairs[1:]:
            for socket in pair:
                socket.set(zmq.LINGER, 0)
                # Closing only unbinds later, in libzmq's own thread.
                socket.unbind(cast(bytes, socket.get(zmq.LAST_ENDPOINT)))
            pair.close()
        del self._pairs[1:]
        self._pairs.append(_reopened(self._tcp, self._context))

    def _shake_hands(self) -> None:
        assert self._zap is not None
        assert self._allowed is not None
        self._zap.send_multipart(answer_handshake(self._zap.recv_multipart(), self._allowed))

    def _take_requests(self, socket: Socket) -> None:
        for _ in range(_TURN):
            try:
                identity, *frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            peer, since = Peer(socket, identity), time.monotonic()
            try:
                asked = self._requests.read(peer, frames)
            except RefusedRequest as refused:
                self._answer(_Asker(peer, refused.id, since), refused.refusal)
                continue
            asker = _Asker(peer, asked.id, since)
            try:
                answer = self._do(asker, asked.request)
            except Exception as error:
                _LOG.exception("a request failed")
                answer = _failed(error)
            if answer is not None:
                self._answer(asker, answer)

    def _do(self, asker: _Asker, request: Request) -> Answer | None:
        """The answer to a request, if it can be given at once."""
        match request:
            case GetStatus():
                return self._present_status()
            case Wait():
                return self._command("wait", asker)
            case Audit():
                return self._command("audit", asker)
            case Doctor():
                done = self._examiner.submit(lambda: self._answer(asker, _done(self._examine)))
            case ApplyDedupe() | UndoActions() | ListHistory() | GetSavings():
                return self._act(asker, request)
            case StartJob() | ListJobs() | WaitJob() | CancelJob() | GetResult():
                return self._about_jobs(asker, request)
            case _:
                query: Query = request
                done = self._query_worker.submit(
                    lambda: self._answer(asker, _done(lambda: self._queries.answer(query)))
                )
        return None if done else _BUSY

    def _present_status(self) -> Answer:
        if self._status is None:
            return Refusal("loading", "the daemon is starting; ask again in a moment")
        status, since = self._status
        return msgspec.structs.replace(
            status, uptime_seconds=round(status.uptime_seconds + time.monotonic() - since, 3)
        )

    def _command(self, kind: Literal["wait", "audit"], asker: _Asker) -> Answer | None:
        return self._hand_on(asker, lambda reply: self._post(Command(kind, reply)))

    def _about_jobs(self, asker: _Asker, request: JobRequest) -> Answer | None:
        jobs = self._jobs
        if jobs is None:
            return Refusal("unknown-job", "this daemon runs no jobs; give --local to do it yourself")
        return self._hand_on(asker, lambda reply: jobs.handle(request, reply))

    def _hand_on(self, asker: _Asker, take: Callable[[Reply], None]) -> Answer | None:
        """Have somebody else reply, who does not block."""
        reply = self._replier(asker)
        if reply is None:
            return _BUSY
        try:
            take(reply)
        except Exception as error:
            _LOG.exception("a request was not taken")
            reply(_failed(error))
        return None

    def _act(self, asker: _Asker, request: Acts) -> Answer | None:
        acting = self._acting
        if acting is None:
            return Refusal("read-only", "this daemon does not act on files; it only plans")
        reply = self._replier(asker)
        if reply is None:
            return _BUSY

        def job() -> None:
            try:
                acting.handle(request, reply)
            except Exception as error:
                _LOG.exception("a request failed")
                reply(_failed(error))

        if not self._query_worker.submit(job):
            reply(_BUSY)
        return None

    def _replier(self, asker: _Asker) -> Reply | None:
        """What answers once, later; None where too many wait for that."""
        with self._lock:
            if self._commands_waiting >= _COMMANDS:
                return None
            self._commands_waiting += 1
        replied = False

        def reply(answer: Answer) -> None:
            nonlocal replied
            with self._lock:
                if replied:
                    return
                replied = True
                self._commands_waiting -= 1
            self._answer(asker, answer)

        return reply

    def _examine(self) -> Examined:
        from lorad.doctor import examine  # noqa: PLC0415 - seldom asked for

        roots, hashing = (self._status[0].roots, self._status[0].hashing) if self._status else ([], None)
        return examine(self._state_dir, self._runtime_dir, roots, self._queries.planner.running, hashing)

    def _answer(self, asker: _Asker, answer: Answer | msgspec.Raw) -> None:
        """Encode an answer, in the thread that has it, and have it sent."""
        peer, number, since = asker
        try:
            frame = msgspec.msgpack.encode(Answered(number, cast(Answer, answer)))
        except (msgspec.MsgspecError, UnicodeError, TypeError, OverflowError) as error:
            _LOG.exception("an answer cannot be encoded")
            frame = msgspec.msgpack.encode(Answered(number, _failed(error)))
        self._outbox.put(peer, frame)
        if threading.current_thread() is not self._thread:
            self._wakeup.signal()
        if self._answered is not None:
            self._answered(time.monotonic() - since)

    def _send_events(self) -> None:
        for message in self._events.due():
            for pair in self._pairs:
                pair.events.send_multipart(message, zmq.NOBLOCK)

    def _take_subscriptions(self, socket: Socket) -> None:
        for _ in range(_TURN):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            topic = self._events.subscribed(frames[0])
            if topic is not None:
                socket.send_multipart([topic, b""], zmq.NOBLOCK)

    def _close(self) -> None:
        for pair in self._pairs:
            pair.close()
        self._pairs.clear()
        if self._zap is not None:
            self._zap.close()
        if self._context is not None:
            self._context.term()
        if self._place is not None:
            self._place.close()
        self._zap = self._context = self._place = None


def _reopened(place: TcpPlace, context: zmq.Context[Socket]) -> Pair:
    """The sockets anew, as soon as libzmq's own thread has let go of the address."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return place.open(context)
        except StateError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


_BUSY = Refusal("busy", "too much is asked at once; ask again in a moment")


def _done(job: Callable[[], _T]) -> _T | Refusal:
    """What a job gives; a Refusal where it fails."""
    try:
        return job()
    except Exception as error:
        _LOG.exception("a request failed")
        return _failed(error)


def _failed(error: Exception) -> Refusal:
    return Refusal("failed", ascii(f"{type(error).__name__}: {error}")[1:-1][:500])
