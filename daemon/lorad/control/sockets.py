"""The sockets of the control protocol: where they are, who may reach them, and what they hold at most.

Local ones are never wider than the configured mode, not for a moment. TCP is never without CURVE.
"""

from __future__ import annotations

import contextlib
import grp
import os
import stat
from typing import NamedTuple

import zmq

from loracore.config import Control
from loracore.control import CONTROL_SOCKET, EVENTS_SOCKET, MAX_REQUEST
from loracore.errors import StateError, UsageError
from loracore.paths import shown
from lorad.control.curve import ZAP_ADDRESS, server_keys

#: A larger frame ends its connection unread. Those below that are too large for a request are answered.
MAX_FRAME = 16 * MAX_REQUEST
#: A longer subscription ends its connection. CURVE's handshake needs some hundred bytes.
_MAX_TOPIC = 4096
#: Requests of one connection that wait to be read, and answers that wait to be sent to it.
_REQUESTS_WAITING, _ANSWERS_WAITING = 64, 16
#: Events that wait to be sent to one subscriber; it loses those beyond.
_EVENTS_WAITING = 10_000
#: Connections that wait to be accepted.
_BACKLOG = 1024
#: Milliseconds that answers have to leave when the daemon ends.
_LINGER = 200
#: Of a runtime folder that we make.
_FOLDER_MODE = 0o750
#: Bytes that fit into the address of a local socket, on Linux.
_LONGEST = 107

Socket = zmq.Socket[bytes]


class Pair(NamedTuple):
    """Where requests come in, and where events go out."""

    requests: Socket
    events: Socket

    def close(self) -> None:
        self.requests.close()
        self.events.close()


class LocalPlace:
    """The runtime folder. The daemon holds a lock on it, so a socket in it was left by one that ended."""

    def __init__(self, folder: str, settings: Control) -> None:
        """Raises StateError and UsageError."""
        self._mode = _mode(settings.socket_mode)
        self._group = _group(settings.socket_group)
        self._folder = os.path.abspath(folder)
        self._paths: list[str] = []
        try:
            os.makedirs(folder, mode=_FOLDER_MODE, exist_ok=True)
            self._fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            mode = stat.S_IMODE(os.stat(folder).st_mode)
            if self._group is not None and not mode & 0o007:
                # Nobody but owner and group may enter, so the sockets' group has to be its group.
                self._give(folder)
                os.chmod(folder, mode | _FOLDER_MODE)
        except OSError as error:
            raise StateError(f"{shown(folder)}: {_reason(error)}; give another --runtime-dir") from error

    def open(self, context: zmq.Context[Socket]) -> Pair:
        """Both sockets, ready to be connected to."""
        pair = _pair(context)
        for socket, name in zip(pair, (CONTROL_SOCKET, EVENTS_SOCKET), strict=True):
            path = os.path.join(self._folder, name)
            # A path that is too long for an address is reached through our descriptor of its folder.
            address = path if len(os.fsencode(path)) <= _LONGEST else f"/proc/self/fd/{self._fd}/{name}"
            before = os.umask(0o777 & ~self._mode)
            try:
                socket.bind(f"ipc://{address}")
                self._paths.append(path)
                os.chmod(path, self._mode)
                self._give(path)
            except (OSError, zmq.ZMQError) as error:
                pair.close()
                raise StateError(f"{shown(path)}: {_reason(error)}; give another --runtime-dir") from error
            finally:
                os.umask(before)
        return pair

    def close(self) -> None:
        """After the sockets."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                os.unlink(path)
        os.close(self._fd)

    def _give(self, path: str) -> None:
        if self._group is not None:
            os.chown(path, -1, self._group)


class TcpPlace:
    """The address for clients elsewhere; events are at the port after it."""

    def __init__(self, address: str, keys_dir: str) -> None:
        """Raises UsageError and StateError."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65535:
            raise UsageError(f"[control] tcp = {address!r}: give host:port, such as 192.0.2.1:5570")
        self._addresses = [f"tcp://{host}:{int(port) + offset}" for offset in (0, 1)]
        self._public, self._secret = server_keys(keys_dir)

    def open(self, context: zmq.Context[Socket]) -> Pair:
        pair = _pair(context)
        for socket, address in zip(pair, self._addresses, strict=True):
            socket.set(zmq.CURVE_SERVER, 1)
            socket.set(zmq.CURVE_PUBLICKEY, self._public)
            socket.set(zmq.CURVE_SECRETKEY, self._secret)
            # Without it, libzmq lets every key in.
            socket.set(zmq.ZAP_DOMAIN, b"lorad")
            socket.set(zmq.IPV6, 1)
            socket.set(zmq.TCP_KEEPALIVE, 1)
            try:
                socket.bind(address)
            except zmq.ZMQError as error:
                pair.close()
                raise StateError(f"[control] tcp: {address}: {error}; give another address") from error
        return pair


def open_zap(context: zmq.Context[Socket]) -> Socket:
    """Where libzmq asks about each connection by TCP."""
    socket = context.socket(zmq.REP)
    socket.set(zmq.LINGER, 0)
    socket.bind(ZAP_ADDRESS)
    return socket


def _pair(context: zmq.Context[Socket]) -> Pair:
    requests, events = context.socket(zmq.ROUTER), context.socket(zmq.XPUB)
    for socket in (requests, events):
        socket.set(zmq.LINGER, _LINGER)
        socket.set(zmq.BACKLOG, _BACKLOG)
        socket.set(zmq.HANDSHAKE_IVL, 10_000)
    requests.set(zmq.MAXMSGSIZE, MAX_FRAME)
    requests.set(zmq.RCVHWM, _REQUESTS_WAITING)
    requests.set(zmq.SNDHWM, _ANSWERS_WAITING)
    requests.set(zmq.ROUTER_MANDATORY, 1)
    events.set(zmq.MAXMSGSIZE, _MAX_TOPIC)
    # Each subscription and its end is told, also where others have the same one.
    events.set(zmq.XPUB_VERBOSER, 1)
    events.set(zmq.SNDHWM, _EVENTS_WAITING)
    return Pair(requests, events)


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 < mode <= 0o777:
        raise UsageError(f"[control] socket_mode = {text!r}: give octal digits such as 0660")
    return mode


def _group(name: str) -> int | None:
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise UsageError(f"[control] socket_group = {name!r}: no such group; make it with groupadd") from error


def _reason(error: OSError | zmq.ZMQError) -> str:
    return (error.strerror or str(error)).lower()
