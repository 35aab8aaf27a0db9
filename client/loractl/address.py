"""Where the daemon is: a local socket or an address by TCP, and whether anybody is there.

ZeroMQ connects to what is not there without a word, so a plain connection is tried first.
"""

from __future__ import annotations

import os
import socket

from loracore.control import CONTROL_SOCKET, EVENTS_SOCKET
from loracore.errors import NoDaemonError, UsageError
from loracore.paths import runtime_dirs, shown

#: Environment variables in place of options.
SOCKET, SERVER_KEY, KEY_FILE = "LORAD_SOCKET", "LORAD_SERVER_KEY", "LORAD_KEY_FILE"
_START = "start it: systemctl start lorad, or lorad --watch DIR"
#: Bytes that fit into the address of a local socket, on Linux.
_LONGEST = 107
_TCP = "tcp://"


class Address:
    """Endpoints for requests and for events. Close it when nothing is connected through it any more."""

    def __init__(self, name: str, control: str, events: str, folder_fd: int | None = None) -> None:
        #: What a person knows it by.
        self.name = name
        self.control = control
        self.events = events
        self._folder_fd = folder_fd

    @property
    def remote(self) -> bool:
        return self.control.startswith(_TCP)

    def close(self) -> None:
        if self._folder_fd is not None:
            os.close(self._folder_fd)
            self._folder_fd = None


def find_daemon(place: str | None, timeout: float | None = None) -> Address:
    """The daemon at `place` (a socket's path or tcp://host:port), or the first one there is.

    Raises NoDaemonError, which says where it looked, and UsageError.
    """
    place = place or os.environ.get(SOCKET)
    if place:
        return _tcp(place, timeout) if place.startswith(_TCP) else _local(place, timeout)
    places = [os.path.join(folder, CONTROL_SOCKET) for folder in runtime_dirs()]
    for path in places:
        try:
            return _local(path, timeout)
        except NoDaemonError as error:
            if os.path.exists(path):
                found = error
                break
    else:
        raise NoDaemonError(f"no daemon at {' or '.join(map(shown, places))}; {_START}")
    raise found


def _local(path: str, timeout: float | None) -> Address:
    folder, name = os.path.split(os.path.abspath(path))
    if os.path.isdir(path):
        folder, name = os.path.abspath(path), CONTROL_SOCKET
    descriptor, where = None, folder
    try:
        if len(os.fsencode(os.path.join(folder, name))) > _LONGEST:
            descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            where = f"/proc/self/fd/{descriptor}"
        address = Address(path, f"ipc://{where}/{name}", f"ipc://{where}/{EVENTS_SOCKET}", descriptor)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
            trial.settimeout(timeout)
            trial.connect(os.path.join(where, name))
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        raise NoDaemonError(_why(path, error)) from error
    return address


def _tcp(place: str, timeout: float | None) -> Address:
    host, _, digits = place.removeprefix(_TCP).rpartition(":")
    if not host or not digits.isdecimal() or not 0 < int(digits) < 65535:
        raise UsageError(f"{place}: give tcp://host:port")
    port = int(digits)
    try:
        socket.create_connection((host.strip("[]"), port), timeout).close()
    except OSError as error:
        raise NoDaemonError(f"{place}: {_reason(error)}; is the daemon's [control] tcp set to it?") from error
    return Address(place, f"{_TCP}{host}:{port}", f"{_TCP}{host}:{port + 1}")


def _why(path: str, error: OSError) -> str:
    name = shown(path)
    if isinstance(error, PermissionError):
        return f"{name}: you may not use this daemon; join the socket's group, as in usermod -aG lorad $USER"
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        return f"{name}: no daemon there; {_START}"
    return f"{name}: {_reason(error)}; {_START}"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
