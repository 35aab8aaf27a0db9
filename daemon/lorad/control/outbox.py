"""Answers on their way out. Who does not fetch them loses them, and keeps nobody waiting.

A connection holds a few answers; what does not fit waits here, for some seconds and within some megabytes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import NamedTuple

import zmq

_LOG = logging.getLogger(__name__)

#: Seconds, and bytes in all, that answers wait for connections that are full.
_PATIENCE = 10.0
_BYTES = 32 << 20

Socket = zmq.Socket[bytes]


class Peer(NamedTuple):
    """A connection. Sockets by TCP are opened anew now and then; an answer for an old one is dropped."""

    socket: Socket
    identity: bytes


class _Waiting(NamedTuple):
    peer: Peer
    frame: bytes
    until: float


class Outbox:
    """`put` is for any thread, `send` for the one that owns the sockets."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._new: deque[tuple[Peer, bytes]] = deque()
        self._waiting: deque[_Waiting] = deque()

    def put(self, peer: Peer, frame: bytes) -> None:
        self._new.append((peer, frame))

    def send(self) -> bool:
        """Send what can be sent; whether something has to wait. Answers of a connection keep their order."""
        now = time.monotonic()
        while self._new:
            self._waiting.append(_Waiting(*self._new.popleft(), now + self._patience))
        full: set[Peer] = set()
        left: deque[_Waiting] = deque()
        room = _BYTES
        for waiting in self._waiting:
            peer, frame, until = waiting
            if peer not in full and self._sent(peer, frame):
                continue
            full.add(peer)
            room -= len(frame)
            if until > now and room >= 0:
                left.append(waiting)
            else:
                _LOG.warning("a client does not read its answers; one was dropped")
        self._waiting = left
        return bool(left)

    @staticmethod
    def _sent(peer: Peer, frame: bytes) -> bool:
        """Whether an answer is off our hands: sent, or for a connection that has ended."""
        try:
            peer.socket.send_multipart([peer.identity, frame], zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            _LOG.debug("an answer had nobody to go to: %s", error)
        return True
