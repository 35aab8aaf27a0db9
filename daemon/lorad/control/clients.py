"""Local clients: their connections, what waits to be sent to each of them, and room for new ones.

Everything is bounded: connections, bytes of messages that are not complete, bytes that wait to be sent, and how
many messages of one client are taken before the others have their turn. The connection of a client that does not
read its answers ends at last, so that it does not wait for one that was dropped.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import time
from collections.abc import Callable, Iterator

from lorad.control.connection import MESSAGES, Connection
from lorad.control.sockets import LocalPlace
from lorad.control.zmtp import Unacceptable, greeting, message

_LOG = logging.getLogger(__name__)

#: Messages that are taken from a client, and connections that are accepted, before others have their turn.
_TURN = 64
#: Bytes that are read from, and messages that are written to, a client at once.
_READ, _WRITE = 64 << 10, 256
#: Bytes of incomplete messages, and of all that waits to be sent, that are kept in all.
_HELD, _WAITING = 64 << 20, 32 << 20
#: Seconds for which a connection has to be idle to be closed for another one, and those for which none is accepted
#: where none is idle.
_IDLE, _REST = 0.25, 0.1
#: Seconds between two lines of the log about clients that were turned away.
_QUIET = 60.0


class _TurnedAway:
    """Lines of the log about clients that were turned away: one a minute, however many they are."""

    def __init__(self) -> None:
        self._more, self._next = 0, 0.0

    def tell(self, text: str) -> None:
        now = time.monotonic()
        if now < self._next:
            self._more += 1
            return
        more = f" (and {self._more} like this in the last minute)" if self._more else ""
        self._more, self._next = 0, now + _QUIET
        _LOG.warning("%s%s", text, more)


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
        self._held = self._waiting = 0
        #: Until when no client is accepted.
        self._paused: float | None = None
        self._turned_away = _TurnedAway()
        for descriptor in self._listeners:
            self.watch(descriptor)

    def watch(self, descriptor: int) -> None:
        """Have `turn` return when this can be read, too."""
        self._epoll.register(descriptor, select.EPOLLIN)

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
                    self.flush(connection)
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
        self.queue(connection, message(frames))
        self.flush(connection)

    def queue(self, connection: Connection, data: bytes) -> None:
        """Have a message sent by the next `flush`. Nothing where the connection has ended."""
        if connection.closed:
            return
        if len(connection.out) >= MESSAGES:
            self.refuse(connection, f"it has not read {MESSAGES} answers")
            return
        if not connection.out:
            connection.stuck = time.monotonic()
        connection.out.append(data)
        connection.waiting += len(data)
        self._waiting += len(data)
        if self._waiting > _WAITING:
            stuck = min((one for one in self._connections.values() if one.out), key=lambda one: one.stuck)
            self.refuse(stuck, f"{_WAITING >> 20} MiB wait to be read by clients, by this one for longest")

    def flush(self, connection: Connection) -> None:
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

    def refuse(self, connection: Connection, reason: str) -> None:
        """End a connection for what came over it."""
        self._turned_away.tell(f"{connection} was turned away: {reason}")
        self._drop(connection)

    def close(self) -> None:
        """End all. What was sent and not read yet can still be read."""
        for connection in list(self._connections.values()):
            self.flush(connection)
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
                    self._turned_away.tell(
                        f"no client is let in: {error.strerror}; raise LimitNOFILE= or ulimit -n"
                    )
                    self._make_room()
                    self._pause(time.monotonic() + _REST)
                return
            client.setblocking(False)
            connection = Connection(client, name, self._place)
            self._connections[client.fileno()] = connection
            self._epoll.register(client.fileno(), select.EPOLLIN)
            self.queue(connection, greeting(self._place.kind(name)))
            self.flush(connection)

    def _make_room(self) -> bool:
        """Close the connection that was idle for longest; False where all were used just now."""
        oldest = next((one for one in self._connections.values() if not one.busy), None)
        oldest = oldest or next(iter(self._connections.values()), None)
        if oldest is None or time.monotonic() - oldest.used < _IDLE:
            return False
        self._turned_away.tell(
            f"{oldest} was turned away: {self._most} are connected, and it was idle for longest"
        )
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
                    connection.used = time.monotonic()
                    # It is now the one that was used last.
                    descriptor = connection.socket.fileno()
                    self._connections[descriptor] = self._connections.pop(descriptor)
                    yield connection, found
                elif found is None:
                    break
                else:
                    self.queue(connection, found)
                    self.flush(connection)
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

    def _drop(self, connection: Connection) -> None:
        if connection.closed:
            return
        connection.closed = True
        descriptor = connection.socket.fileno()
        del self._connections[descriptor]
        self._unread.pop(connection, None)
        self._epoll.unregister(descriptor)
        connection.socket.close()
        self._held -= connection.held
        self._waiting -= connection.waiting
        connection.out.clear()
        self._ended(connection)
