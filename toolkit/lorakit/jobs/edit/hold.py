"""Keeping others from writing to a file while another one is made from it.

A read lease (fcntl(2), F_SETLEASE) is refused while a file is open for writing anywhere, also where it is mapped
only. Once it is held, a program that opens the file for writing waits in open(2), up to
/proc/sys/fs/lease-break-time (45 s), and `look` sees that. A file system without leases (NFS, some FUSE), and a
file of another user, cannot be held: there size, inode and times have to tell, before and after.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import time

from loracore.errors import ChangedFile, FileError
from loracore.identity import Identity, tick_of


class Hold:
    """An open file that is to stay as `identity` says. It ends when the descriptor is closed."""

    def __init__(self, fd: int, identity: Identity) -> None:
        """Raises FileError where a program has it open for writing, ChangedFile."""
        self._fd = fd
        self._identity = identity
        self._leased = _lease(fd)
        self.look()

    def look(self, *, renamed: bool = False) -> None:
        """Raises ChangedFile where it changed, or a program waits to write to it.

        `renamed`: its name was changed by ourselves, which changes its ctime.
        """
        if self._leased and fcntl.fcntl(self._fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            raise ChangedFile("a program wants to write to it; nothing was changed, try again when it is closed")
        now = Identity.of(os.fstat(self._fd))
        if not (self._identity.renamed(now) if renamed else self._identity == now):
            raise ChangedFile("it changed meanwhile; nothing was changed, try again")


def settled(fd: int) -> Identity:
    """What an open file is, once a later write to it shows in its times: at most a tick of the clock is waited."""
    identity = Identity.of(os.fstat(fd))
    tick = tick_of(identity.ctime_ns)
    age = time.time_ns() - identity.ctime_ns
    if 0 <= age < tick:
        time.sleep((tick - age) / 1e9)
        identity = Identity.of(os.fstat(fd))
    return identity


def _lease(fd: int) -> bool:
    """Whether it is held now. Raises FileError."""
    with contextlib.suppress(OSError):
        # By default the kernel would say by SIGIO, which ends a process, that a program wants to write.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                raise FileError("a program has it open for writing; try again when it is closed") from error
            raise
        return True
    return False
