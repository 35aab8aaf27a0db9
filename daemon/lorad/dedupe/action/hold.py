"""Holding a file against change: it is what it was said to be, and nobody writes to it.

A read lease (fcntl(2), F_SETLEASE with F_RDLCK on a descriptor for reading) is refused while the inode is open
for writing anywhere, a closed descriptor that is still mapped included, since the mapping keeps the open file.
Once it is held, whoever opens the inode for writing, or truncates it, waits in open(2), up to
/proc/sys/fs/lease-break-time (45 s), and `look` tells that somebody came. He who holds the lease gives way:
what was begun is taken back and the lease let go.

The kernel reports such a visit by a signal, by default SIGIO, which would end the process. Here it is SIGURG,
which is ignored where nobody handles it; F_GETLEASE is asked instead.

Not covered: writers on other machines (network file systems have no such leases, or do not pass them on), and
a writer that looked the name up before it was exchanged but comes to the lease only after the last look, that is,
is held up between two instructions of one open(2) for as long as it takes to sync a folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from loracore.causes import LEASE, words
from loracore.identity import Identity
from lorad.dedupe.action.order import Progress, Refused
from lorad.dedupe.action.place import Reached, closing_fd, open_file


@dataclass(frozen=True)
class Held:
    """An open file that nobody writes to. `before` is how it was found."""

    reached: Reached
    fd: int
    before: os.stat_result

    @property
    def path(self) -> bytes:
        return self.reached.path

    @property
    def folder(self) -> int:
        return self.reached.folder

    @property
    def name(self) -> bytes:
        return self.reached.name

    @property
    def visited(self) -> bool:
        """Whether somebody waits to write to it, or did already as he had waited for too long."""
        return fcntl.fcntl(self.fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK

    def look(self, *, renamed: bool = False) -> None:
        """Raises Refused when it changed or somebody waits to write to it.

        `renamed`: its names were changed by ourselves, which changes its ctime too. The lease alone then says that
        nobody wrote.
        """
        if self.visited:
            raise Refused.about(self.path, "somebody wants to write to it; try again when it is closed")
        if not same(Identity.of(os.fstat(self.fd)), Identity.of(self.before), renamed=renamed):
            raise Refused.about(self.path, "it changed meanwhile; scan again")

    def look_in_place(self, *, renamed: bool = False) -> None:
        """As `look`; also when its path from the root does not lead to it any more."""
        self.look(renamed=renamed)
        self.look_at_place()

    def look_at_place(self) -> None:
        """Raises Refused when its path from the root does not lead to it any more."""
        status = self.reached.status()
        if status is None or not os.path.samestat(status, self.before) or not self.reached.in_place():
            raise Refused.about(self.path, "it was moved or replaced meanwhile; scan again")


def same(one: Identity, other: Identity, *, renamed: bool = False) -> bool:
    """Whether a file is unchanged; `renamed`: but for its ctime."""
    return one.renamed(other) if renamed else one == other


def watchful(one: Held, other: Held, progress: Progress) -> Progress:
    """Progress that gives way at once to a writer of either."""

    def report(done: int, total: int) -> None:
        one.look(renamed=True)
        other.look(renamed=True)
        progress(done, total)

    return report


@contextmanager
def hold(reached: Reached, identity: Identity | None) -> Iterator[Held]:
    """Open and hold the file; `identity` is what it must be, None for whatever regular file stands there.

    Raises Refused: it is not there, not a regular file, empty, another one or changed; it is open for writing;
    it belongs to another user; or the file system has no leases.
    """
    with closing_fd(open_file(reached)) as fd:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise Refused.about(reached.path, "it is no regular file")
        # A link more or less changes ctime: whoever asks compares the content anyway.
        if identity is not None and not same(Identity.of(before), identity, renamed=True):
            raise Refused.about(reached.path, "it changed since it was read; scan again")
        if not before.st_size:
            raise Refused.about(reached.path, "it is empty; there is nothing to save")
        _lease(fd, reached.path)
        held = Held(reached, fd, before)
        held.look()
        yield held


def _lease(fd: int, path: bytes) -> None:
    try:
        # Before the lease, so that there is no moment at which SIGIO would come.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        raise Refused.about(path, words(LEASE, error.errno or errno.EINVAL)) from error
