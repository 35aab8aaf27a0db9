"""One ZeroMQ socket to the daemon, and the watch on it that tells when nobody is there (any more)."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import zmq
from zmq.utils.monitor import parse_monitor_message

from loracore.errors import LoraError, NoDaemonError, RefusedError, TimedOutError
from loracore.paths import default_config_dir, shown
from loractl.address import KEY_FILE, SERVER_KEY, Address
from loractl.session import MAX_ANSWER

if TYPE_CHECKING:
    from typing import Any

#: Messages that wait to be read by us.
_WAITING = 10_000
#: Seconds after which signals are looked for: one that comes just before a wait begins does not end it.
_HEARD = 0.5
_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED
_UNAUTHORIZED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
_NO_HANDSHAKE = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
MONITORED = _LOST | _UNAUTHORIZED | _NO_HANDSHAKE | zmq.EVENT_HANDSHAKE_SUCCEEDED


class Keys:
    """What a connection by TCP needs: the daemon's public key, and a pair of our own."""

    def __init__(self, server_key: str | None, key_file: str | None) -> None:
        """Keys or names of key files; else from the environment, else from the user's configuration."""
        self._server_key = server_key or os.environ.get(SERVER_KEY) or ""
        self._key_file = key_file or os.environ.get(KEY_FILE) or ""

    def set_on(self, socket: zmq.SyncSocket) -> None:
        """Raises LoraError."""
        from loractl.keys import load_pair, public_key  # noqa: PLC0415 - for TCP alone

        if not self._server_key:
            raise LoraError(
                f"a daemon by TCP needs --server-key or {SERVER_KEY}; `loractl keys show` there tells it"
            )
        public, secret = load_pair(self._key_file or os.path.join(default_config_dir(), "client.key_secret"))
        socket.set(zmq.CURVE_SERVERKEY, public_key(self._server_key))
        socket.set(zmq.CURVE_PUBLICKEY, public)
        socket.set(zmq.CURVE_SECRETKEY, secret)


def prepare(socket: Any, address: Address, keys: Keys) -> None:
    """Limits and keys, for a socket of either kind of client."""
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.MAXMSGSIZE, MAX_ANSWER)
    socket.set(zmq.RCVHWM, _WAITING)
    if address.remote:
        socket.set(zmq.IPV6, 1)
        keys.set_on(socket)


def trouble(frames: list[bytes], address: Address, connected: bool) -> Exception | None:
    """What a message of the monitor says of the connection, if that is the end of it."""
    event = int(parse_monitor_message(frames)["event"])
    name = shown(address.name)
    if event & _UNAUTHORIZED:
        return RefusedError(f"{name}: our key is not allowed; there, run `loractl keys allow KEY`", "unauthorized")
    if event & (_LOST | _NO_HANDSHAKE):
        if connected:
            return NoDaemonError(f"{name}: the daemon ended the connection; is it still running?")
        wrong = "is --server-key right?" if address.remote else "start it: systemctl start lorad"
        return NoDaemonError(f"{name}: no connection; {wrong}")
    return None


class Link:
    """A connected socket, for one thread."""

    def __init__(self, context: zmq.Context[zmq.SyncSocket], kind: int, address: Address, keys: Keys) -> None:
        self._address = address
        self._connected = False
        self.socket = context.socket(kind)
        try:
            prepare(self.socket, address, keys)
            self._monitor = self.socket.get_monitor_socket(MONITORED)
        except BaseException:
            self.socket.close()
            raise
        #: What a person knows the daemon by.
        self.name = shown(address.name)

    def receive(self, deadline: float | None) -> list[bytes]:
        """The next message. Raises TimedOutError, NoDaemonError and RefusedError."""
        return receive_first([self], deadline)[1]

    def register(self, poller: zmq.Poller) -> None:
        if self.socket.closed:
            raise NoDaemonError(f"{self.name}: this connection was closed")
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)

    def listen(self, ready: Collection[object]) -> None:
        """Hear the monitor, if it is among what is ready. Raises what ended the connection."""
        if self._monitor in ready:
            ended = trouble(self._monitor.recv_multipart(), self._address, self._connected)
            if ended is not None:
                raise ended
            self._connected = True

    def close(self) -> None:
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self._monitor.close()
        self.socket.close()


def receive_first(links: Sequence[Link], deadline: float | None) -> tuple[Link, list[bytes]]:
    """The next message of any of these links, the first ones before the others. Raises as `Link.receive`."""
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
            link.listen(ready)
        if not ready and deadline is not None and time.monotonic() >= deadline:
            raise TimedOutError(f"{links[0].name}: the daemon did not answer in time")
