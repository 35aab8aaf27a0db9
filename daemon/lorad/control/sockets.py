"""The local sockets of the control protocol: where they are, who may reach them, and how many clients they take.

They are never wider than the configured mode, not for a moment. Connections are the only descriptors whose number
others choose, so they get a share of those that the daemon may have, and what it opens itself the rest. Where the
share is used up, clients are turned away (`lorad.control.clients`).
"""

from __future__ import annotations

import contextlib
import grp
import os
import resource
import socket
from collections.abc import Iterator
from typing import NamedTuple

from loracore.config import Control
from loracore.control import CONTROL_SOCKET, EVENTS_SOCKET, MAX_REQUEST
from loracore.errors import StateError, UsageError
from loracore.paths import shown
from lorad.state_folder import is_locked, lock_again, made

#: A larger message ends its connection unread. Those below that are too large for a request are answered.
MAX_FRAME = 16 * MAX_REQUEST
#: Bytes of a frame's head, and of the handshake.
_HEADS = 256
#: The same for what is sent to the events' socket.
_MAX_TOPIC = 4096
#: Connections that wait to be accepted.
_BACKLOG = 1024
#: Bytes that fit into the address of a local socket, on Linux.
_LONGEST = 107


class _Door(NamedTuple):
    """What ZeroMQ's clients find at a socket, and how large what they send may be."""

    kind: bytes
    largest: int


_DOORS = {CONTROL_SOCKET: _Door(b"ROUTER", MAX_FRAME + _HEADS), EVENTS_SOCKET: _Door(b"XPUB", _MAX_TOPIC)}


class LocalPlace:
    """The runtime folder. The daemon holds a lock on it, so a socket in it was left by one that ended."""

    def __init__(self, folder: str, settings: Control) -> None:
        """Raises StateError and UsageError."""
        self._mode = _mode(settings.socket_mode)
        self._group = _group(settings.socket_group)
        self._folder = os.path.abspath(folder)
        self._fd = -1
        try:
            self._enter()
            self._locked = is_locked(self._folder)
        except OSError as error:
            raise StateError(f"{shown(folder)}: {_reason(error)}; give another --runtime-dir") from error

    def open(self) -> Iterator[tuple[socket.socket, str]]:
        """Both sockets with their names, ready to be connected to. Raises StateError."""
        for name in _DOORS:
            try:
                yield self._bound(name), name
            except OSError as error:
                path = os.path.join(self._folder, name)
                raise StateError(f"{shown(path)}: {_reason(error)}; give another --runtime-dir") from error

    def kind(self, name: str) -> bytes:
        return _DOORS[name].kind

    def largest(self, name: str) -> int:
        return _DOORS[name].largest

    def renewed(self, name: str) -> socket.socket | None:
        """A socket in place of one whose name was removed, with its folder or alone; None where it is there.

        The folder's lock is renewed as well, so that no other lorad takes the folder for its own.
        """
        try:
            gone = not os.path.lexists(os.path.join(self._folder, name))
            if gone:
                self._enter()
            if self._locked and not is_locked(self._folder):
                lock_again(self._folder)
            return self._bound(name) if gone else None
        except OSError:
            return None

    def close(self) -> None:
        """After the sockets."""
        for name in _DOORS:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, name))
        os.close(self._fd)

    def _enter(self) -> None:
        """Make the folder if need be, and hold it."""
        made(self._folder)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mode = os.stat(self._folder).st_mode & 0o777
        if self._group is not None and not mode & 0o007:
            # Nobody but owner and group may enter, so the sockets' group has to be its group.
            self._give(self._folder)
            os.chmod(self._folder, mode | 0o750)

    def _bound(self, name: str) -> socket.socket:
        path = os.path.join(self._folder, name)
        # A path that is too long for an address is reached through our descriptor of its folder.
        address = path if len(os.fsencode(path)) <= _LONGEST else f"/proc/self/fd/{self._fd}/{name}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # The name gets this mode less the umask, which must not be changed for other threads.
            os.fchmod(listener.fileno(), self._mode)
            listener.bind(address)
            os.chmod(path, self._mode)
            self._give(path)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener

    def _give(self, path: str) -> None:
        if self._group is not None:
            os.chown(path, -1, self._group)


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


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


#: The least to work with: about forty for the daemon itself, some for actions on files and jobs, half for clients.
_LEAST = 128
#: As in the unit. More is of no use, and other programs that jobs start may be slow with it.
_WANTED = 65536
#: Clients at most, and descriptors for each of them.
_CLIENTS, _SHARE = 4096, 2


def raise_limit() -> None:
    """Allow this process and its children as many as they may have. Raises UsageError where that is too few."""
    soft, hard = (_WANTED if limit == resource.RLIM_INFINITY else limit for limit in _limits())
    if hard < _LEAST:
        raise UsageError(
            f"only {hard} files may be open here, and lorad needs {_LEAST}: "
            "raise it by LimitNOFILE= in the service, or by ulimit -n"
        )
    if soft < min(hard, _WANTED):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _WANTED), _limits()[1]))


def for_clients() -> int:
    """How many connections there may be."""
    soft, _ = _limits()
    return _CLIENTS if soft == resource.RLIM_INFINITY else min(_CLIENTS, soft // _SHARE)


def _limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)
