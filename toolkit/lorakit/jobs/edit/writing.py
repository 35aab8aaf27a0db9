"""A file with another header in the place of the old one, whole or not at all.

The new file has no name until its bytes are on the disk; then a hidden one beside the old, and then the two change
places at once (renameat2(2), RENAME_EXCHANGE). The old file is removed by `drop`, after the journal is durable.
Where a file system knows no exchange (NFS, many FUSE), the new one replaces it, after a last look.

Kept: mode, owner, times, extended attributes and ACLs. Not: birth time and the flags of chattr(1).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from loracore.attributes import Attributes
from loracore.causes import explained
from loracore.causes import told as told_by
from loracore.errors import ChangedFile, FileError
from loracore.identity import Identity
from loracore.tensorfile import Source
from lorakit.jobs.edit.data import bring, sync_folder
from lorakit.jobs.edit.header import Header, check_made
from lorakit.jobs.edit.hold import Hold
from lorakit.output.folder import EXCHANGE, UNSUPPORTED, renameat2

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


@dataclass(frozen=True)
class Order:
    """What is to be written: `path` without links, as `identity` says it was when `header` was read.

    `raw`: the new header, with its length; `metadata`: what it says. `mtime_ns` of the new file; None for the
    time at which it is written.
    """

    path: bytes
    identity: Identity
    header: Header
    raw: bytes
    metadata: Mapping[str, str]
    mtime_ns: int | None

    @property
    def size(self) -> int:
        """Bytes of the new file."""
        return self.identity.size - len(self.header.raw) + len(self.raw)


@dataclass(frozen=True)
class Written:
    """Bytes that are the old file's blocks, and bytes that were copied; what the new file is in its place.

    A file system may keep a coarser mtime than it was given.
    """

    shared: int
    copied: int
    identity: Identity


def write(order: Order, hidden: bytes, told: Callable[[int], object]) -> Written:
    """Put the new file in the old one's place; the old one has the name `hidden` in its folder then, where it can.

    Raises FileError, with the old file where and what it was.
    """
    try:
        with _opened(order.path) as (folder, old):
            hold = Hold(old, order.identity)
            if os.pread(old, len(order.header.raw), 0) != order.header.raw:
                raise ChangedFile("it changed meanwhile; nothing was changed, try again")

            def came(count: int) -> None:
                hold.look()
                told(count)

            with _new_file(folder, hidden) as (new, is_named):
                shared, copied = _fill(order, old, new, came)
                hold.look()
                if not is_named:
                    os.link(b"/proc/self/fd/%d" % new, hidden, dst_dir_fd=folder, follow_symlinks=True)
                _swap(order, hold, folder, old, hidden)
                sync_folder(folder)
                return Written(shared, copied, Identity.of(os.fstat(new)))
    except OSError as error:
        raise FileError(f"it cannot be edited: {_why(error, order.path)}", os.fsdecode(order.path)) from error
    except FileError as error:
        error.path = error.path or os.fsdecode(order.path)
        raise


def _why(error: OSError, path: bytes) -> str:
    """With what was tried, where that is noted."""
    return told_by(error) if hasattr(error, "__notes__") else explained(error, path)


def drop(path: bytes, hidden: bytes) -> None:
    """Remove what has the hidden name beside `path`. Raises OSError where it is not there, or stays."""
    os.unlink(os.path.join(os.path.dirname(path), hidden))


@contextmanager
def _opened(path: bytes) -> Iterator[tuple[int, int]]:
    """Descriptors of the folder and of the file in it."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        old = os.open(os.path.basename(path), _OPEN, dir_fd=folder)
        try:
            yield folder, old
        finally:
            os.close(old)
    finally:
        os.close(folder)


@contextmanager
def _new_file(folder: int, hidden: bytes) -> Iterator[tuple[int, bool]]:
    """A descriptor of a new file, and whether it has the hidden name. After an error the file is not left."""
    flags, is_named = os.O_RDWR | os.O_CLOEXEC, False
    try:
        new = os.open(b".", flags | os.O_TMPFILE, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        new, is_named = os.open(hidden, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder), True
    try:
        yield new, is_named
    except BaseException:
        # By this name only what was made here is removed, and never what it was exchanged with.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(hidden, dir_fd=folder, follow_symlinks=False), os.fstat(new)):
                os.unlink(hidden, dir_fd=folder)
        raise
    finally:
        os.close(new)


def _fill(order: Order, old: int, new: int, came: Callable[[int], object]) -> tuple[int, int]:
    """All bytes and attributes of the new file, on the disk and looked at. How many are shared, and copied."""
    status = os.fstat(old)
    attributes = Attributes.of(old, status)
    _write_all(new, order.raw)
    shared, copied = bring(old, len(order.header.raw), new, len(order.raw), came)
    check_made(Source(new, os.fstat(new).st_size), order.header, order.metadata)
    if os.pread(new, len(order.raw), 0) != order.raw:
        raise FileError("the new header reads otherwise than it was written; nothing was changed")
    attributes.give(new)
    mtime = time.time_ns() if order.mtime_ns is None else order.mtime_ns
    os.utime(new, ns=(status.st_atime_ns, mtime))
    os.fsync(new)
    return shared, copied


def _write_all(fd: int, data: bytes) -> None:
    view, place = memoryview(data), 0
    while place < len(view):
        place += os.pwrite(fd, view[place:], place)


def _swap(order: Order, hold: Hold, folder: int, old: int, hidden: bytes) -> None:
    """Raises ChangedFile, after changing back, where the name did not lead to the old file any more."""
    name = os.path.basename(order.path)
    if not _leads_to(folder, name, old):
        raise ChangedFile("it was moved or replaced meanwhile; nothing was changed, try again")
    try:
        renameat2(hidden, name, EXCHANGE, folder=folder)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        os.rename(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    try:
        _check_exchanged(hold, folder, hidden, old)
    except BaseException:
        renameat2(hidden, name, EXCHANGE, folder=folder)
        raise


def _check_exchanged(hold: Hold, folder: int, hidden: bytes, old: int) -> None:
    if not _leads_to(folder, hidden, old):
        raise ChangedFile("it was moved or replaced meanwhile; nothing was changed, try again")
    hold.look(renamed=True)


def _leads_to(folder: int, name: bytes, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(fd))
    except OSError:
        return False
