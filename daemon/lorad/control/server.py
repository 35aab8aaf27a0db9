"""The thread that takes requests and sends answers and events.

It owns the sockets; `lorad.control.answering` says who answers what. Nothing that comes in from a socket can end
it, and what one client does not fetch is dropped for that client alone.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import msgspec
import zmq

from loracore import config
from loracore.control import Answer, Answered, Event
from loracore.errors import LoraError, StateError
from lorad.control.acting import Deduper
from lorad.control.answering import Answering, Command, failed
from lorad.control.curve import AllowList, answer_handshake
from lorad.control.events import Events
from lorad.control.jobs import JobRunner
from lorad.control.outbox import Outbox, Peer
from lorad.control.requests import RefusedRequest, Requests
from lorad.control.sockets import LocalPlace, Pair, Socket, TcpPlace, open_zap

_LOG = logging.getLogger(__name__)

#: Messages taken from one socket before the others have their turn.
_TURN = 64
#: Milliseconds until answers that did not fit into their connection are tried again.
_RETRY = 2
#: Seconds that an address that was let go has to be free.
_PATIENCE = 2.0
#: Seconds after which this thread gets its turn from one that computes. Python's own 5 ms, at each of an
#: answer's five system calls, would be more than a status may take.
_SWITCH_INTERVAL = 0.0005


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
        self._answered = answered
        self._answering = Answering(runtime_dir, state_dir, post, deduper, jobs)
        #: See `Answering`; all of them from any thread.
        self.set_status, self.use = self._answering.set_status, self._answering.use
        self.plan_for, self.audit = self._answering.plan_for, self._answering.audit
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
        self._answering.start()
        self._thread.start()

    def stop(self) -> None:
        """Close the sockets and end the threads. Whoever still waits sees the connection end."""
        self._stopping = True
        if self._thread.is_alive():
            self._wakeup.signal()
            self._thread.join()
        self._answering.stop()
        self._close()

    def tell(self, event: Event) -> None:
        """Send an event. From any thread; never blocks."""
        self._events.tell(event)

    def reload(self) -> None:
        """Read the allowed keys again; connections whose key is not allowed any more are ended."""
        self._reload = True
        self._wakeup.signal()

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
            answer = self._answering.answer(asked.request, partial(self._answer, asker))
            if answer is not None:
                self._answer(asker, answer)

    def _answer(self, asker: _Asker, answer: Answer | msgspec.Raw) -> None:
        """Encode an answer, in the thread that has it, and have it sent."""
        peer, number, since = asker
        try:
            frame = msgspec.msgpack.encode(Answered(number, cast(Answer, answer)))
        except (msgspec.MsgspecError, UnicodeError, TypeError, OverflowError) as error:
            _LOG.exception("an answer cannot be encoded")
            frame = msgspec.msgpack.encode(Answered(number, failed(error)))
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
