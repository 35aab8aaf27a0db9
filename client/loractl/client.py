"""`loractl.Client`: a running daemon's answers and events, for scripts.

    with loractl.Client() as daemon:
        daemon.wait()
        for found in daemon.duplicates():
            print(found.kept, found.others)

What it gives are the structs of `loracore.control`; paths are bytes. One client is for one thread at a time.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import zmq

from loracore.control import Answer, JobProgress, Request, Told
from loracore.errors import LoraError, NoDaemonError, RefusedError, TimedOutError
from loracore.jobs.job import P, R, Spec
from loracore.paths import AnyPath, default_config_dir, shown
from loractl.address import KEY_FILE, SERVER_KEY, Address, find_daemon
from loractl.frames import MAX_ANSWER, A, Subscription, decode_answer, encode
from loractl.job_requests import run
from loractl.keys import load_pair, public_key
from loractl.session import Requests
from loractl.steps import Ask, Listing, Steps, T, Whole, advance, ask, next_page

if TYPE_CHECKING:
    from loractl.adapters import Resolved

S = TypeVar("S", bound="zmq.Socket[Any]")

#: Messages that wait to be read by us.
_WAITING = 10_000
#: Seconds after which signals are looked for: one that comes just before a wait begins does not end it.
_HEARD = 0.5
_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED
_UNAUTHORIZED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
_NO_HANDSHAKE = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_MONITORED = _LOST | _UNAUTHORIZED | _NO_HANDSHAKE | zmq.EVENT_HANDSHAKE_SUCCEEDED


class Client(Requests):
    """A connection to the daemon.

    `socket` is the path of its control socket or `tcp://host:port`; by default the running daemon is looked
    for (LORAD_SOCKET, then the runtime folders). `timeout` is in seconds, for each answer; None for no limit.
    By TCP, `server_key` is the daemon's public key or a file with it, and `key_file` our secret key's file.

    Everything raises NoDaemonError where there is no daemon (any more), TimedOutError, and RefusedError with its
    `code`. What can be asked is in `loractl.session`, `loractl.dedupe_requests` and `loractl.job_requests`.
    """

    def __init__(
        self,
        socket: str | None = None,
        *,
        timeout: float | None = 30.0,
        server_key: str | None = None,
        key_file: str | None = None,
    ) -> None:
        self._timeout = timeout
        self._keys = Keys(server_key, key_file)
        self._number = 0
        self._events: list[Events] = []
        self._address = find_daemon(socket, timeout)
        self._context: zmq.Context[zmq.SyncSocket] = zmq.Context()
        try:
            self._link = Link(self._context, zmq.DEALER, self._address, self._keys)
            self._link.socket.connect(self._address.control)
        except BaseException:
            self._context.destroy(linger=0)
            self._address.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and event streams with it."""
        if not self._context.closed:
            for events in self._events:
                events.close()
            self._link.close()
            self._context.destroy(linger=0)
            self._address.close()

    def pages(self, request: Request, kind: type[A]) -> Iterator[A]:
        """A list's answers as they come, page by page."""
        following: Request | None = request
        while following is not None:
            page = self._perform(ask(following, kind, self._timeout))
            yield page
            following = next_page(following, page)

    def run(
        self,
        spec: Spec[..., P, R],
        parameters: P,
        *,
        summary: str = "",
        progress: Callable[[JobProgress], None] | None = None,
    ) -> R:
        """Have the daemon do a job, and return its result. Paths in `parameters` are absolute. Raises JobFailed.

        `summary` says in a few words what it is about. It ends when this client is closed or its process ends.
        `loractl.jobs.run_job` does it here where the daemon cannot, and cancels it when it is interrupted.
        """
        return self._perform(run(spec, parameters, summary, progress, self._timeout))

    def events(self, kinds: Collection[str] | None = None) -> Events:
        """Events from now on: all, or those of these kinds (their tags in `loracore.control`)."""
        link = Link(self._context, zmq.SUB, self._address, self._keys)
        try:
            events = Events(link, self._address.events, kinds, self._timeout)
        except BaseException:
            link.close()
            raise
        self._events.append(events)
        return events

    def _items(self, listing: Listing[T]) -> Iterator[T]:
        whole = Whole(listing.join)
        for page in self.pages(listing.request, listing.kind):
            yield from whole.add(listing.items(page))
        yield from whole.end()

    def _perform(self, steps: Steps[R]) -> R:
        events: Events | None = None
        try:
            step = advance(steps)
            while isinstance(step, Ask):
                if step.hear is not None and events is None:
                    events = self.events(step.hear.topics)
                step = advance(steps, self._exchange(step, events))
            return step.value
        finally:
            steps.close()
            if events is not None:
                events.close()
                self._events.remove(events)

    def _exchange(self, asked: Ask, events: Events | None) -> Answer:
        """Send a request, and take events until its answer is there."""
        deadline = _deadline(asked.timeout)
        self._number += 1
        self._link.socket.send(encode(self._number, asked.request))
        links = [self._link] if events is None else [self._link, events.link]
        while True:
            told = events.early() if events is not None else None
            if told is None:
                link, message = receive_first(links, deadline)
                if link is self._link:
                    answered = decode_answer(message[-1])
                    # Others are late answers to what was given up.
                    if answered.id in (self._number, 0):
                        return answered.answer
                elif events is not None:
                    told = events.read(message)
            if told is not None and asked.hear is not None:
                asked.hear(told.event)


class Events:
    """Events as they come; iterate. It ends with NoDaemonError when the daemon does."""

    def __init__(
        self, link: Link[zmq.SyncSocket], endpoint: str, kinds: Collection[str] | None, timeout: float | None
    ) -> None:
        """Returns when the daemon is known to send: what happens from then on is not missed."""
        self.link = link
        self._subscription = Subscription(kinds)
        self.read = self._subscription.read
        link.subscribe(endpoint, self._subscription.topics)
        deadline = _deadline(timeout)
        while not self._subscription.in_force:
            self._subscription.read_early(receive_first([link], deadline)[1])

    def __iter__(self) -> Iterator[Told]:
        return self

    def __next__(self) -> Told:
        return self.next()

    def next(self, timeout: float | None = None) -> Told:
        """The next event. Raises TimedOutError."""
        deadline = _deadline(timeout)
        told = self.early()
        while told is None:
            told = self.read(receive_first([self.link], deadline)[1])
        return told

    def early(self) -> Told | None:
        """An event that came before it was known that the daemon sends."""
        return self._subscription.early.pop(0) if self._subscription.early else None

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.link.close()


class Keys:
    """What a connection by TCP needs: the daemon's public key, and a pair of our own."""

    def __init__(self, server_key: str | None, key_file: str | None) -> None:
        """Keys or names of key files; else from the environment, else from the user's configuration."""
        self._server_key = server_key or os.environ.get(SERVER_KEY) or ""
        self._key_file = key_file or os.environ.get(KEY_FILE) or ""

    def set_on(self, socket: zmq.Socket[Any]) -> None:
        """Raises LoraError."""
        if not self._server_key:
            raise LoraError(
                f"a daemon by TCP needs --server-key or {SERVER_KEY}; `loractl keys show` there tells it"
            )
        public, secret = load_pair(self._key_file or os.path.join(default_config_dir(), "client.key_secret"))
        socket.set(zmq.CURVE_SERVERKEY, public_key(self._server_key))
        socket.set(zmq.CURVE_PUBLICKEY, public)
        socket.set(zmq.CURVE_SECRETKEY, secret)


class Link(Generic[S]):
    """A socket of either kind of client, and the monitor that says when there is no daemon (any more)."""

    def __init__(self, context: zmq.Context[S], kind: int, address: Address, keys: Keys) -> None:
        self._address = address
        self._connected = False
        #: What a person knows the daemon by.
        self.name = shown(address.name)
        self.socket = context.socket(kind)
        try:
            self.socket.set(zmq.LINGER, 0)
            self.socket.set(zmq.MAXMSGSIZE, MAX_ANSWER)
            self.socket.set(zmq.RCVHWM, _WAITING)
            if address.remote:
                self.socket.set(zmq.IPV6, 1)
                keys.set_on(self.socket)
            self.monitor: S = self.socket.get_monitor_socket(_MONITORED)
        except BaseException:
            self.socket.close()
            raise

    def subscribe(self, endpoint: str, topics: Sequence[bytes]) -> None:
        for topic in topics:
            self.socket.subscribe(topic)
        self.socket.connect(endpoint)

    def register(self, poller: zmq.Poller) -> None:
        if self.socket.closed:
            raise NoDaemonError(f"{self.name}: this connection was closed")
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self.monitor, zmq.POLLIN)

    def check(self, frames: list[bytes]) -> None:
        """Read a message of the monitor. Raises what ended the connection."""
        # As in zmq_socket_monitor(3). pyzmq's own reader loads asyncio, which takes 30 ms.
        event, _ = struct.unpack("=HI", frames[0])
        if event & _UNAUTHORIZED:
            text = f"{self.name}: our key is not allowed; there, run `loractl keys allow KEY`"
            raise RefusedError(text, "unauthorized")
        if event & (_LOST | _NO_HANDSHAKE):
            if self._connected:
                raise NoDaemonError(f"{self.name}: the daemon ended the connection; is it still running?")
            wrong = "is --server-key right?" if self._address.remote else "start it: systemctl start lorad"
            raise NoDaemonError(f"{self.name}: no connection; {wrong}")
        self._connected = True

    def close(self) -> None:
        if not self.socket.closed:
            self.socket.disable_monitor()
            self.monitor.close()
            self.socket.close()


def receive_first(
    links: Sequence[Link[zmq.SyncSocket]], deadline: float | None
) -> tuple[Link[zmq.SyncSocket], list[bytes]]:
    """The next message of any of these links, the first ones before the others.

    Raises TimedOutError, NoDaemonError and RefusedError.
    """
    poller = zmq.Poller()
    for link in links:
        link.register(poller)
    while True:
        left = _HEARD if deadline is None else min(_HEARD, max(0, deadline - time.monotonic()))
        ready = dict(poller.poll(int(1000 * left) + 1))
        # What came before a connection ended is read before its end.
        for link in links:
            if link.socket in ready:
                return link, link.socket.recv_multipart()
        for link in links:
            if link.monitor in ready:
                link.check(link.monitor.recv_multipart())
        if not ready and deadline is not None and time.monotonic() >= deadline:
            raise TimedOutError(f"{links[0].name}: the daemon did not answer in time")


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def resolve(
    name: str, base: str | None = None, *, socket: str | None = None, cache: AnyPath | None = None
) -> Resolved:
    """The PEFT folder of the adapter that is meant by `name`, for the base model `base`.

    `socket`: as of `Client`. `cache`: the folder for converted adapters, which the daemon must be able to write
    to; `lorad/adapters` in the user's cache folder by default. Raises NoAdapterError, AmbiguousError, FileError
    for an adapter that cannot be used, and what `Client` raises.
    """
    with Client(socket) as client:
        return client.resolve(name, base, cache=cache)
