"""What mounts can do, each thing tried once a mount: change names at once, leases, shared blocks.

A trial answers with the error number that an action would meet, 0 where it would meet none, or where the trial is
not possible: then the action finds out. Trials write only where an action needs to know, and only into folders
that can be written; file systems of which it is known are not tried.

Files of our own are made for a moment to try a folder, here and in `aliases`. Their names are random and are used
once. One that a crash has left is empty or a few bytes long, is passed over by the scanner like all that begins
with `.lorad-`, and is removed when something is tried in that folder again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from lorad.blocks.extents import SHARING
from lorad.dedupe.action.place import closing_fd, exchange, rename_new
from lorad.dedupe.action.reflink import share_range
from lorad.watch.statx import Status, may_change

_NAME = re.compile(rb"\.lorad-probe-[0-9a-f]{32}")
#: Seconds after which a probe is a leftover: it lives for milliseconds.
_OLD = 3600.0
#: A probe is no longer than this.
_SMALL = 64
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def new_name() -> bytes:
    """A name that no folder was ever asked for."""
    return b".lorad-probe-" + secrets.token_hex(16).encode()


def opened(folder: bytes) -> AbstractContextManager[int]:
    """A descriptor of the folder. Raises OSError."""
    return closing_fd(os.open(folder, _FOLDER))


@contextmanager
def probe(folder: int, content: bytes = b"") -> Iterator[bytes]:
    """The name of a new file in an open folder, gone again afterwards. Raises OSError where none can be made."""
    name = new_name()
    fd = os.open(name, _FILE, 0o600, dir_fd=folder)
    try:
        os.write(fd, content)
        yield name
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def remove_leftovers(folder: int) -> None:
    """Remove probes that a crash has left in an open folder."""
    before = time.time() - _OLD
    for name in map(os.fsencode, os.listdir(folder)):
        if _NAME.fullmatch(name):
            with suppress(OSError):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if status.st_mtime >= before:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    os.rmdir(name, dir_fd=folder)
                elif stat.S_ISREG(status.st_mode) and status.st_size <= _SMALL:
                    os.unlink(name, dir_fd=folder)


#: File systems that change names in both ways: see `man 2 rename`.
_RENAMES = frozenset({b"ext4", b"xfs", b"btrfs", b"bcachefs", b"f2fs", b"tmpfs", b"ubifs"})
#: Where only a trial says whether blocks can be shared: XFS may be made without.
_MAYBE_SHARING = frozenset({b"xfs"})
_BLOCK = 4096
#: Opens a file without changing it or waiting for anybody.
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Abilities:
    """For one thread."""

    def __init__(self) -> None:
        self._generation = 0
        self._known: dict[tuple[object, ...], int] = {}

    def renew(self, generation: int) -> None:
        """Forget what was tried under another generation of mounts (see `mounted`)."""
        if generation != self._generation:
            self._generation = generation
            self._known.clear()

    def exchange(self, folder: bytes, status: Status, kind: bytes) -> int:
        """Whether two names in this folder can change places at once; `kind`: its file system."""
        return 0 if kind in _RENAMES else self._once(("exchange", status.mount, status.dev), folder, _exchange)

    def rename_new(self, folder: bytes, status: Status, kind: bytes) -> int:
        """Whether a name can be changed with no risk to a file that has the new one."""
        return 0 if kind in _RENAMES else self._once(("rename", status.mount, status.dev), folder, _rename_new)

    def rename_folder(self, folder: bytes, status: Status, kind: bytes) -> int:
        """The same for a folder in this one."""
        key = "folder", status.mount, status.dev
        return 0 if kind in _RENAMES else self._once(key, folder, _rename_folder)

    def share(self, folder: bytes, status: Status, kind: bytes) -> int:
        """Whether files in this folder can share blocks."""
        if kind not in SHARING:
            return errno.EOPNOTSUPP
        return self._once(("share", status.dev), folder, share_error) if kind in _MAYBE_SHARING else 0

    def lease(self, path: bytes, status: Status) -> int:
        """Whether this file, and others of its owner on its mount, can be held against writers."""
        key = ("lease", status.mount, status.dev, status.uid)
        if key not in self._known:
            number = _lease(path)
            if number == errno.EAGAIN:
                # Open for writing just now, which says that there are leases.
                return 0
            self._known[key] = number
        return self._known[key]

    def _once(self, key: tuple[object, ...], folder: bytes, trial: Callable[[bytes], int]) -> int:
        if key not in self._known:
            if not may_change(folder):
                return 0
            try:
                self._known[key] = trial(folder)
            except OSError:
                # No room for a probe, or the folder went.
                return 0
        return self._known[key]


def _exchange(folder: bytes) -> int:
    """Their contents are looked at, as a file system that knows no such call may take it for another."""
    with opened(folder) as fd:
        remove_leftovers(fd)
        with probe(fd, b"1") as one, probe(fd, b"2") as two:
            try:
                exchange(fd, one, two)
            except OSError as error:
                return error.errno or errno.EINVAL
            return 0 if (_content(fd, one), _content(fd, two)) == (b"2", b"1") else errno.EINVAL


def _rename_new(folder: bytes) -> int:
    """A taken name is not taken over, and a new one is given."""
    with opened(folder) as fd:
        remove_leftovers(fd)
        with probe(fd) as one, probe(fd) as two:
            try:
                with suppress(FileExistsError):
                    rename_new(fd, one, fd, two)
                    return errno.EINVAL
                rename_new(fd, one, fd, new := new_name())
                os.unlink(new, dir_fd=fd)
            except OSError as error:
                return error.errno or errno.EINVAL
    return 0


def _rename_folder(folder: bytes) -> int:
    with opened(folder) as fd:
        remove_leftovers(fd)
        name, new = new_name(), new_name()
        os.mkdir(name, 0o700, dir_fd=fd)
        try:
            rename_new(fd, name, fd, new)
            name = new
        except OSError as error:
            return error.errno or errno.EINVAL
        finally:
            os.rmdir(name, dir_fd=fd)
    return 0


def _content(folder: int, name: bytes) -> bytes:
    with closing_fd(os.open(name, _LOOK, dir_fd=folder)) as fd:
        return os.read(fd, 2)


def share_error(folder: bytes) -> int:
    """Tried with two files that have no name (O_TMPFILE). Raises OSError where none can be made."""
    block = os.urandom(_BLOCK)
    with tempfile.TemporaryFile(dir=folder) as one, tempfile.TemporaryFile(dir=folder) as other:
        for file in (one, other):
            file.write(block)
            file.flush()
        try:
            return 0 if share_range(one.fileno(), other.fileno(), 0, _BLOCK) else errno.EOPNOTSUPP
        except OSError as error:
            return error.errno or errno.EOPNOTSUPP


def _lease(path: bytes) -> int:
    """It is let go at once, as the descriptor is closed."""
    try:
        fd = os.open(path, _LOOK)
    except OSError:
        return 0
    try:
        # Whoever comes meanwhile is reported by a signal, which by default would end this process (SIGIO).
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno or errno.EINVAL
    finally:
        os.close(fd)
    return 0
