"""One local client's connection: what it sent and what waits to be sent to it."""

from __future__ import annotations

import socket
import struct
import time
from collections import deque

from lorad.control.sockets import LocalPlace
from lorad.control.zmtp import Reader

#: Messages that wait for one client at most. A subscriber loses events beyond.
MESSAGES = 10_000
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
