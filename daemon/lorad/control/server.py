"""The thread that takes requests and sends answers and events.

It owns the sockets; `lorad.control.handlers` says who answers what. Nothing that comes in from a socket can end
it, and what one client does not fetch is dropped for that client alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import msgspec

from loracore import config
from loracore.control import EVENTS_SOCKET, Answer, Answered, Event
from loracore.errors import LoraError
from lorad.control.clients import Clients
from lorad.control.connection import Connection
from lorad.control.dedupe_handlers import Deduper
from lorad.control.events import READY, Events
from lorad.control.handlers import Command, Handlers, JobRunner
from lorad.control.replies import failed
from lorad.control.requests import RefusedRequest, Requests
from lorad.control.sockets import LocalPlace, for_clients
from lorad.control.subscribers import Subscribers
from lorad.control.tcp import Peer, TcpClients
from lorad.control.zmtp import Unacceptable

_LOG = logging.getLogger(__name__)

#: Seconds between two looks whether the sockets are there.
_TICK = 1.0
#: Seconds until answers that did not fit into their connection by TCP are tried again.
_RETRY = 0.002
#: Seconds after which this thread gets its turn from one that computes. Python's own 5 ms, at each of an
#: answer's five system calls, would be more than a status may take.
_SWITCH_INTERVAL = 0.0005


class _Asker(NamedTuple):
    """Who gets an answer: the request's number, and when it came."""

    peer: Connection | Peer
    number: int
    since: float


class _Wakeup:
    """Ends the thread's waiting. It lives as long as anybody could still signal."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def signal(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
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
        #: Who answers what.
        self.handlers = Handlers(runtime_dir, state_dir, post, deduper, jobs)
        self._answers: deque[tuple[Connection, bytes]] = deque()
        self._wakeup = _Wakeup()
        self._events = Events(self._wakeup.signal)
        self._subscribers = Subscribers()
        self._requests = Requests()
        self._reload = self._stopping = False
        self._place: LocalPlace | None = None
        self._clients: Clients | None = None
        self._tcp: TcpClients | None = None
        self._thread = threading.Thread(target=self._run, name="lorad-control", daemon=True)

    # For the core

    def start(self) -> None:
        """Open the sockets and begin to answer. Raises StateError and UsageError."""
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL))
        try:
            self._place = LocalPlace(self._runtime_dir, self._settings)
            self._clients = Clients(self._place, for_clients(), self._gone)
            self._clients.watch(self._wakeup.descriptor)
            if self._settings.tcp:
                self._tcp = TcpClients(self._settings, self._state_dir)
                self._watch_tcp()
        except LoraError:
            self._close()
            raise
        self.handlers.start()
        self._thread.start()

    def stop(self) -> None:
        """Close the sockets and end the threads. Whoever still waits sees the connection end."""
        self._stopping = True
        if self._thread.is_alive():
            self._wakeup.signal()
            self._thread.join()
        self.handlers.stop()
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
        next_tick = 0.0
        while not self._stopping:
            try:
                now = time.monotonic()
                if now >= next_tick and self._clients is not None:
                    next_tick = now + _TICK
                    self._clients.tick()
                self._turn(next_tick - now)
            except Exception:
                # The daemon is to be reached whatever one turn met.
                _LOG.exception("the control thread goes on after an error")
                time.sleep(0.1)
        self._send_answers()

    def _turn(self, timeout: float) -> None:
        clients, tcp = self._clients, self._tcp
        assert clients is not None
        if tcp is not None:
            timeout = min(timeout, _RETRY if tcp.flush() else timeout)
            timeout = 0.0 if tcp.pending else timeout
        for connection, frames in clients.turn(max(0.0, timeout)):
            if connection.name == EVENTS_SOCKET:
                self._subscribe(connection, frames[0])
            else:
                self._take(connection, frames)
        self._wakeup.clear()
        for peer, frames in tcp.take() if tcp is not None else ():
            self._take(peer, frames)
        self._send_answers()
        if self._subscribers.keeping_up and (events := self._events.due()):
            self._subscribers.publish(events, clients)
            if tcp is not None:
                tcp.publish(events)
        if self._reload and tcp is not None and tcp.reload():
            self._watch_tcp()
        self._reload = False

    def _send_answers(self) -> None:
        assert self._clients is not None
        while self._answers:
            connection, frame = self._answers.popleft()
            connection.asked -= 1
            self._clients.send(connection, [frame])

    def _gone(self, connection: Connection) -> None:
        """A local client's connection has ended."""
        self._requests.forget(connection)
        if connection.topics:
            self._subscribers.forget(connection)
            self._events.heard = self._tcp is not None or bool(self._subscribers)
        if connection.owns:
            self.handlers.gone(connection)

    def _watch_tcp(self) -> None:
        assert self._tcp is not None
        assert self._clients is not None
        self._events.heard = True
        for descriptor in self._tcp.descriptors:
            self._clients.watch(descriptor)

    def _subscribe(self, connection: Connection, frame: bytes) -> None:
        assert self._clients is not None
        try:
            topic = self._subscribers.take(connection, frame)
        except Unacceptable as error:
            self._clients.refuse(connection, str(error))
            return
        self._events.heard = self._tcp is not None or bool(self._subscribers)
        if topic is not None and topic.startswith(READY):
            self._clients.send(connection, [topic, b""])

    def _take(self, peer: Connection | Peer, frames: list[bytes]) -> None:
        since = time.monotonic()
        owner = peer if isinstance(peer, Connection) else None
        if owner is not None:
            owner.asked += 1
        try:
            asked = self._requests.read(peer, frames)
        except RefusedRequest as refused:
            self._answer(_Asker(peer, refused.id, since), refused.refusal)
            return
        except Exception as error:
            # One message is not to end the connections of all.
            _LOG.exception("a message of %s was not taken", peer)
            self._answer(_Asker(peer, 0, since), failed(error))
            return
        asker = _Asker(peer, asked.id, since)
        answer = self.handlers.answer(asked.request, partial(self._answer, asker), owner)
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
        if isinstance(peer, Connection):
            self._answers.append((peer, frame))
        elif self._tcp is not None:
            self._tcp.put(peer, frame)
        if threading.current_thread() is not self._thread:
            self._wakeup.signal()
        if self._answered is not None:
            self._answered(time.monotonic() - since)

    def _close(self) -> None:
        if self._tcp is not None:
            self._tcp.close()
        if self._clients is not None:
            self._clients.close()
        if self._place is not None:
            self._place.close()
        self._tcp = self._clients = self._place = None
