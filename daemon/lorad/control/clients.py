"""Local clients: their connections, what waits to be sent to each of them, and room for new ones.

Everything is bounded: connections, bytes of messages that are not complete, bytes that wait to be sent, topics of
a subscriber, and how many messages of one client are taken before the others have their turn. The connection of a
client that does not read its answers ends at last, so that it does not wait for one that was dropped.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator

from lorad.control.sockets import LocalPlace
from lorad.control.zmtp import Reader, Unacceptable, greeting, message

_LOG = logging.getLogger(__name__)

#: Messages that are taken from a client, and connections that are accepted, before others have their turn.
_TURN = 64
#: Bytes that are read from, and messages that are written to, a client at once.
_READ, _WRITE = 64 << 10, 256
#: Bytes of incomplete messages, and of all that waits to be sent, that are kept in all.
_HELD, _WAITING = 64 << 20, 32 << 20
#: Messages that wait for one client. A subscriber loses events beyond; with so few it keeps up.
_MESSAGES, _FEW = 10_000, 500
#: Topics of one subscriber, and bytes of each. There are some twenty kinds of events.
_TOPICS, _TOPIC = 64, 64
#: Seconds for which a connection has to be idle to be closed for another one, and those for which none is accepted
#: where none is idle.
_IDLE, _REST = 0.25, 0.1
#: Seconds between two lines of the log about clients that were turned away.
_QUIET = 60.0
_CREDENTIALS = struct.Struct("3i")


class Connection:
    """One client. `closed` once the connection has ended, however it did."""

    def __init__(self, client: socket.socket, name: str, place: LocalPlace) -> None:
        self.socket = client
        self.name = name
        self.reader = Reader(place.largest(name))
        self.closed = False
        #: Requests that are to be answered, and whether a job ends with this connection.
        self.asked, self.owns = 0, False
        #: What it subscribed to.
        self.topics: set[bytes] = set()
        #: What waits to be sent, its bytes, and since when none of it was taken.
        self.out: deque[bytes | memoryview] = deque()
        self.waiting, self.stuck = 0, 0.0
        self.used = time.monotonic()
        #: Bytes of incomplete messages that are counted, and whether it is waited for that it reads.
        self.held, self.blocked = 0, False

    @property
    def busy(self) -> bool:
        """Whether its end would be missed."""
        return bool(self.asked or self.owns or self.topics)

    def __str__(self) -> str:
        """Whose it is, for the log."""
        try:
            found = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return f"a client of {self.name}"
        pid, uid, _ = _CREDENTIALS.unpack(found)
        return f"a client of {self.name} (process {pid} of user {uid})"


class Clients:
    """All of them, for one thread. `ended` is called with each connection that has ended.

    `most` is how many there may be. Where there are as many, the one that was idle for longest makes room.
    """

    def __init__(self, place: LocalPlace, most: int, ended: Callable[[Connection], None]) -> None:
        """Raises StateError."""
        self._place = place
        self._most = most
        self._ended = ended
        self._epoll = select.epoll()
        self._listeners = {listener.fileno(): (listener, name) for listener, name in place.open()}
        #: By descriptor, the one that was used longest ago first.
        self._connections: dict[int, Connection] = {}
        self._unread: dict[Connection, None] = {}
        #: Those that want events.
        self.subscribers: dict[Connection, None] = {}
        self._held = self._waiting = 0
        #: Until when no client is accepted.
        self._paused: float | None = None
        self._turned_away, self._next_word = 0, 0.0
        for descriptor in self._listeners:
            self.watch(descriptor)

    def watch(self, descriptor: int) -> None:
        """Have `turn` return when this can be read, too."""
        self._epoll.register(descriptor, select.EPOLLIN)

    @property
    def keeping_up(self) -> bool:
        """Whether the quickest subscriber has read what was sent to it: it sets the pace for events."""
        return not self.subscribers or any(len(one.out) < _FEW for one in self.subscribers)

    def turn(self, timeout: float) -> Iterator[tuple[Connection, list[bytes]]]:
        """What clients have sent, waiting up to `timeout` seconds for something to happen."""
        unread, self._unread = self._unread, {}
        if self._paused is not None:
            timeout = min(timeout, _REST)
            if time.monotonic() >= self._paused:
                self._pause(None)
        for descriptor, events in self._epoll.poll(0 if unread else timeout):
            connection = self._connections.get(descriptor)
            if descriptor in self._listeners:
                self._accept(*self._listeners[descriptor])
            elif connection is not None:
                if events & select.EPOLLOUT:
                    self._flush(connection)
                if events & ~select.EPOLLOUT and connection not in unread and self._received(connection):
                    unread[connection] = None
        for connection in unread:
            if not connection.closed:
                yield from self._messages(connection)

    def tick(self) -> None:
        """To be called each second: sockets that somebody removed are made anew."""
        for descriptor, (listener, name) in list(self._listeners.items()):
            if (renewed := self._place.renewed(name)) is not None:
                self._accept(listener, name)
                self._epoll.unregister(descriptor)
                del self._listeners[descriptor]
                listener.close()
                self._listeners[renewed.fileno()] = renewed, name
                self.watch(renewed.fileno())
                self._pause(None)

    def send(self, connection: Connection, frames: list[bytes]) -> None:
        """Send a message, now or as soon as the client reads. Nothing where the connection has ended."""
        self._queue(connection, message(frames))
        self._flush(connection)

    def publish(self, events: list[list[bytes]]) -> None:
        """Send events to those who subscribed to them. A subscriber that does not keep up loses some."""
        subscribers = [(one, tuple(one.topics)) for one in self.subscribers]
        for frames in events:
            data, kind = message(frames), frames[0]
            for connection, topics in subscribers:
                if len(connection.out) < _MESSAGES and kind.startswith(topics):
                    self._queue(connection, data)
        for connection, _ in subscribers:
            self._flush(connection)

    def subscribe(self, connection: Connection, frame: bytes) -> bytes | None:
        """Take in that a client wants a topic, or does not any more; the topic that it wants from now on."""
        kind, topic = frame[:1], frame[1:]
        if kind == b"\x00":
            connection.topics.discard(topic)
            if not connection.topics:
                self.subscribers.pop(connection, None)
        if kind != b"\x01":
            return None
        if len(topic) > _TOPIC or len(connection.topics) >= _TOPICS:
            self.refuse(connection, f"more than {_TOPICS} topics, or one of more than {_TOPIC} bytes")
            return None
        connection.topics.add(topic)
        self.subscribers[connection] = None
        return topic

    def refuse(self, connection: Connection, reason: str) -> None:
        """End a connection for what came over it."""
        self._tell(f"{connection} was turned away: {reason}")
        self._drop(connection)

    def close(self) -> None:
        """End all. What was sent and not read yet can still be read."""
        for connection in list(self._connections.values()):
            self._flush(connection)
            self._drop(connection)
        for listener, _ in self._listeners.values():
            listener.close()
        self._listeners.clear()
        self._epoll.close()

    def _accept(self, listener: socket.socket, name: str) -> None:
        for _ in range(_TURN):
            if len(self._connections) >= self._most and not self._make_room():
                self._pause(time.monotonic() + _REST)
                return
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ECONNABORTED:
                    self._tell(f"no client is let in: {error.strerror}; raise LimitNOFILE= or ulimit -n")
                    self._make_room()
                    self._pause(time.monotonic() + _REST)
                return
            client.setblocking(False)
            connection = Connection(client, name, self._place)
            self._connections[client.fileno()] = connection
            self._epoll.register(client.fileno(), select.EPOLLIN)
            self._queue(connection, greeting(self._place.kind(name)))
            self._flush(connection)

    def _make_room(self) -> bool:
        """Close the connection that was idle for longest; False where all were used just now."""
        oldest = next((one for one in self._connections.values() if not one.busy), None)
        oldest = oldest or next(iter(self._connections.values()), None)
        if oldest is None or time.monotonic() - oldest.used < _IDLE:
            return False
        self._tell(f"{oldest} was turned away: {self._most} are connected, and it was idle for longest")
        self._drop(oldest)
        return True

    def _pause(self, until: float | None) -> None:
        """Let clients wait at the door for a moment, or not any more."""
        self._paused = until
        for descriptor in self._listeners:
            self._epoll.modify(descriptor, 0 if until is not None else select.EPOLLIN)

    def _received(self, connection: Connection) -> bool:
        """Whether something was read; a connection that has ended is dropped."""
        try:
            data = connection.socket.recv(_READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return False
        connection.reader.feed(data)
        return True

    def _messages(self, connection: Connection) -> Iterator[tuple[Connection, list[bytes]]]:
        try:
            for _ in range(_TURN):
                found = connection.reader.next()
                if isinstance(found, list):
                    self._use(connection)
                    yield connection, found
                elif found is None:
                    break
                else:
                    self._queue(connection, found)
                    self._flush(connection)
                if connection.closed:
                    return
            else:
                self._unread[connection] = None
        except Unacceptable as error:
            self.refuse(connection, str(error))
            return
        self._held += connection.reader.held - connection.held
        connection.held = connection.reader.held
        if self._held > _HELD:
            self.refuse(connection, f"clients have sent {_HELD >> 20} MiB of messages without an end")

    def _use(self, connection: Connection) -> None:
        """It is now the one that was used last."""
        connection.used = time.monotonic()
        descriptor = connection.socket.fileno()
        self._connections[descriptor] = self._connections.pop(descriptor)

    def _queue(self, connection: Connection, data: bytes) -> None:
        if connection.closed:
            return
        if len(connection.out) >= _MESSAGES:
            self.refuse(connection, f"it has not read {_MESSAGES} answers")
            return
        if not connection.out:
            connection.stuck = time.monotonic()
        connection.out.append(data)
        connection.waiting += len(data)
        self._waiting += len(data)
        if self._waiting > _WAITING:
            stuck = min((one for one in self._connections.values() if one.out), key=lambda one: one.stuck)
            self.refuse(stuck, f"{_WAITING >> 20} MiB wait to be read by clients, by this one for longest")

    def _flush(self, connection: Connection) -> None:
        """Send what its socket takes."""
        out = connection.out
        while out and not connection.closed:
            pieces = [out[place] for place in range(min(_WRITE, len(out)))]
            try:
                sent = connection.socket.sendmsg(pieces)
            except BlockingIOError:
                break
            except OSError:
                self._drop(connection)
                return
            connection.waiting -= sent
            self._waiting -= sent
            connection.stuck = time.monotonic()
            while out and sent >= len(out[0]):
                sent -= len(out.popleft())
            if sent:
                out[0] = memoryview(out[0])[sent:]
        if bool(out) != connection.blocked and not connection.closed:
            connection.blocked = bool(out)
            mask = select.EPOLLIN | (select.EPOLLOUT if out else 0)
            self._epoll.modify(connection.socket.fileno(), mask)

    def _drop(self, connection: Connection) -> None:
        if connection.closed:
            return
        connection.closed = True
        descriptor = connection.socket.fileno()
        del self._connections[descriptor]
        self._unread.pop(connection, None)
        self.subscribers.pop(connection, None)
        self._epoll.unregister(descriptor)
        connection.socket.close()
        self._held -= connection.held
        self._waiting -= connection.waiting
        connection.out.clear()
        self._ended(connection)

    def _tell(self, text: str) -> None:
        """One line a minute, however many are turned away."""
        now = time.monotonic()
        if now < self._next_word:
            self._turned_away += 1
            return
        more = f" (and {self._turned_away} like this in the last minute)" if self._turned_away else ""
        self._turned_away, self._next_word = 0, now + _QUIET
        _LOG.warning("%s%s", text, more)
