"""Local clients that want events: the topics that each subscribed to, and what is sent to them.

A topic is the beginning of the kind of an event. Their number and their length are bounded.
"""

from __future__ import annotations

from lorad.control.clients import Clients
from lorad.control.connection import MESSAGES, Connection
from lorad.control.zmtp import Unacceptable, message

#: Messages that may wait for a subscriber that keeps up.
_FEW = 500
#: Topics of one subscriber, and bytes of each. There are some twenty kinds of events.
_TOPICS, _TOPIC = 64, 64


class Subscribers:
    """For the thread of `Clients`. A subscriber that does not keep up loses events."""

    def __init__(self) -> None:
        self._connections: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def keeping_up(self) -> bool:
        """Whether the quickest subscriber has read what was sent to it: it sets the pace for events."""
        return not self._connections or any(len(one.out) < _FEW for one in self._connections)

    def take(self, connection: Connection, frame: bytes) -> bytes | None:
        """Take in that a client wants a topic, or does not any more; the topic that it wants from now on.

        Raises Unacceptable.
        """
        kind, topic = frame[:1], frame[1:]
        if kind == b"\x00":
            connection.topics.discard(topic)
            if not connection.topics:
                self.forget(connection)
        if kind != b"\x01":
            return None
        if len(topic) > _TOPIC or len(connection.topics) >= _TOPICS:
            raise Unacceptable(f"more than {_TOPICS} topics, or one of more than {_TOPIC} bytes")
        connection.topics.add(topic)
        self._connections[connection] = None
        return topic

    def forget(self, connection: Connection) -> None:
        """It has ended, or wants nothing any more."""
        self._connections.pop(connection, None)

    def publish(self, events: list[list[bytes]], clients: Clients) -> None:
        """Send events to those who subscribed to them."""
        subscribers = [(one, tuple(one.topics)) for one in self._connections]
        for frames in events:
            data, kind = message(frames), frames[0]
            for connection, topics in subscribers:
                if len(connection.out) < MESSAGES and kind.startswith(topics):
                    clients.queue(connection, data)
        for connection, _ in subscribers:
            clients.flush(connection)
