"""Clients by TCP, which only libzmq's CURVE lets in: its sockets, and answers on their way out.

A connection holds a few answers; what does not fit waits here, for some seconds and within some megabytes, and is
then lost to that client.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import zmq

from loracore.config import Control
from loracore.errors import StateError, UsageError
from lorad.control.client_keys import ZAP_ADDRESS, AllowList, answer_handshake, server_keys
from lorad.control.events import READY
from lorad.control.sockets import MAX_FRAME

_LOG = logging.getLogger(__name__)

#: Messages taken from one socket before the others have their turn.
_TURN = 64
#: A longer subscription ends its connection. CURVE's handshake needs some hundred bytes.
_MAX_TOPIC = 4096
#: Requests of one connection that wait to be read, answers that wait to be sent to it, and events.
_REQUESTS_WAITING, _ANSWERS_WAITING, _EVENTS_WAITING = 64, 16, 10_000
#: Connections that wait to be accepted.
_BACKLOG = 1024
#: Milliseconds that answers have to leave when the daemon ends.
_LINGER = 200
#: Seconds, and bytes in all, that answers wait for connections that are full.
_PATIENCE, _BYTES = 10.0, 32 << 20
#: Seconds that an address that was let go has to be free.
_FREE = 2.0

Socket = zmq.Socket[bytes]


class Peer(NamedTuple):
    """A connection. Sockets are opened anew now and then; an answer for an old one is dropped."""

    socket: Socket
    identity: bytes


class _Waiting(NamedTuple):
    peer: Peer
    frame: bytes
    until: float


class TcpClients:
    """For one thread, but for `put`."""

    def __init__(self, settings: Control, state_dir: str) -> None:
        """Raises UsageError and StateError."""
        host, _, port = settings.tcp.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65535:
            raise UsageError(f"[control] tcp = {settings.tcp!r}: give host:port, such as 192.0.2.1:5570")
        keys_dir = settings.keys_dir or os.path.join(state_dir, "keys")
        self._addresses = [f"tcp://{host}:{int(port) + offset}" for offset in (0, 1)]
        self._keys = server_keys(keys_dir)
        self._allowed = AllowList(os.path.join(keys_dir, "allowed"))
        self._new: deque[tuple[Peer, bytes]] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._context: zmq.Context[Socket] = zmq.Context()
        self._pair: tuple[Socket, ...] = ()
        # Where libzmq asks about each connection.
        self._zap = self._context.socket(zmq.REP)
        self._zap.set(zmq.LINGER, 0)
        self._zap.bind(ZAP_ADDRESS)
        try:
            self._pair = self._open()
        except StateError:
            self.close()
            raise

    @property
    def descriptors(self) -> list[int]:
        """What can be read when libzmq has something to say; after that, call `take` until it has no more."""
        return [int(socket.get(zmq.FD)) for socket in (*self._pair, self._zap)]

    @property
    def pending(self) -> bool:
        """Whether there is something to take."""
        return any(int(socket.get(zmq.EVENTS)) & zmq.POLLIN for socket in (*self._pair, self._zap))

    def take(self) -> Iterator[tuple[Peer, list[bytes]]]:
        """What clients have sent."""
        for frames in self._received(self._zap):
            self._zap.send_multipart(answer_handshake(frames, self._allowed))
        requests, events = self._pair
        for frames in self._received(events):
            if frames[0][:1] == b"\x01" and frames[0][1:].startswith(READY):
                events.send_multipart([frames[0][1:], b""], zmq.NOBLOCK)
        for identity, *frames in self._received(requests):
            yield Peer(requests, identity), frames

    def put(self, peer: Peer, frame: bytes) -> None:
        """Have an answer sent. From any thread."""
        self._new.append((peer, frame))

    def flush(self) -> bool:
        """Send what can be sent; whether something has to wait. Answers of a connection keep their order."""
        now = time.monotonic()
        while self._new:
            self._waiting.append(_Waiting(*self._new.popleft(), now + _PATIENCE))
        full: set[Peer] = set()
        left: deque[_Waiting] = deque()
        room = _BYTES
        for waiting in self._waiting:
            peer, frame, until = waiting
            if peer not in full and _sent(peer, frame):
                continue
            full.add(peer)
            room -= len(frame)
            if until > now and room >= 0:
                left.append(waiting)
            else:
                _LOG.warning("a client does not read its answers; one was dropped")
        self._waiting = left
        return bool(left)

    def publish(self, events: Sequence[list[bytes]]) -> None:
        for frames in events:
            self._pair[1].send_multipart(frames, zmq.NOBLOCK)

    def reload(self) -> bool:
        """Read the allowed keys again; whether the sockets are new ones.

        libzmq cannot end one connection: all are ended, if one has to be.
        """
        if not self._allowed.reload():
            return False
        for socket in self._pair:
            socket.set(zmq.LINGER, 0)
            # Closing only unbinds later, in libzmq's own thread.
            socket.unbind(cast(bytes, socket.get(zmq.LAST_ENDPOINT)))
            socket.close()
        deadline = time.monotonic() + _FREE
        while True:
            try:
                self._pair = self._open()
            except StateError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return True

    def close(self) -> None:
        for socket in (*self._pair, self._zap):
            socket.close()
        self._context.term()

    def _open(self) -> tuple[Socket, Socket]:
        pair = requests, events = self._context.socket(zmq.ROUTER), self._context.socket(zmq.XPUB)
        requests.set(zmq.MAXMSGSIZE, MAX_FRAME)
        requests.set(zmq.RCVHWM, _REQUESTS_WAITING)
        requests.set(zmq.SNDHWM, _ANSWERS_WAITING)
        requests.set(zmq.ROUTER_MANDATORY, 1)
        events.set(zmq.MAXMSGSIZE, _MAX_TOPIC)
        # Each subscription is told, also where others have the same one.
        events.set(zmq.XPUB_VERBOSER, 1)
        events.set(zmq.SNDHWM, _EVENTS_WAITING)
        public, secret = self._keys
        for socket, address in zip(pair, self._addresses, strict=True):
            socket.set(zmq.LINGER, _LINGER)
            socket.set(zmq.BACKLOG, _BACKLOG)
            socket.set(zmq.HANDSHAKE_IVL, 10_000)
            socket.set(zmq.CURVE_SERVER, 1)
            socket.set(zmq.CURVE_PUBLICKEY, public)
            socket.set(zmq.CURVE_SECRETKEY, secret)
            # Without it, libzmq lets every key in.
            socket.set(zmq.ZAP_DOMAIN, b"lorad")
            socket.set(zmq.IPV6, 1)
            socket.set(zmq.TCP_KEEPALIVE, 1)
            try:
                socket.bind(address)
            except zmq.ZMQError as error:
                for each in pair:
                    each.close()
                raise StateError(f"[control] tcp: {address}: {error}; give another address") from error
        return pair

    @staticmethod
    def _received(socket: Socket) -> Iterator[list[bytes]]:
        for _ in range(_TURN):
            try:
                yield socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return


def _sent(peer: Peer, frame: bytes) -> bool:
    """Whether an answer is off our hands: sent, or for a connection that has ended."""
    try:
        peer.socket.send_multipart([peer.identity, frame], zmq.NOBLOCK)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        _LOG.debug("an answer had nobody to go to: %s", error)
    return True
