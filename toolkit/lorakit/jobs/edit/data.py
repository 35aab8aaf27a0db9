"""The bytes behind a header, brought into another file: as shared blocks where the file system can, else copied.

A copy is compared with what it was copied from. Blocks are shared by FICLONERANGE (ioctl_ficlonerange(2)), which
takes whole blocks at places that are multiples of a block in both files, up to the end of the source.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable

from loracore.errors import ChangedFile, FileError

_FICLONERANGE = 0x4020940D
_RANGE = struct.Struct("=qQQQ")
#: What a file system says that cannot share these two.
_CANNOT = (
    errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.ENOSYS, errno.EBADF, errno.EPERM,
    errno.ETXTBSY,
)  # fmt: skip
#: Bytes that are copied between two looks at the lease and two reports of progress.
_PIECE = 8 << 20
#: A larger block would make headers needlessly long.
_LARGEST_BLOCK = 64 << 10
_USUAL_BLOCK = 4096


def block_of(fd: int) -> int:
    """The bytes of a block of a file's file system, by which places in two files have to agree to be shared."""
    size = os.fstatvfs(fd).f_bsize
    return size if 512 <= size <= _LARGEST_BLOCK and not size & (size - 1) else _USUAL_BLOCK


def bring(source: int, start: int, target: int, place: int, told: Callable[[int], object]) -> tuple[int, int]:
    """All of `source` from `start` on, to `target` from `place` on. How many bytes are shared, how many copied.

    `told` hears how many bytes came, and may raise. Raises OSError; ChangedFile; FileError where a copy differs.
    """
    size = os.fstat(source).st_size
    shared = _share(source, start, target, place)
    if not shared:
        _reserve(target, place + size - start)
    copied, done = size - start - shared, 0
    while done < copied:
        piece = min(_PIECE, copied - done)
        _copy(source, start + done, target, place + done, piece)
        if _read(source, start + done, piece) != _read(target, place + done, piece):
            raise FileError("its copy differs from it, or it changed meanwhile; nothing was changed, try again")
        done += piece
        told(piece)
    told(shared)
    return shared, copied


def _share(source: int, start: int, target: int, place: int) -> int:
    """Share all whole blocks; how many bytes from the end that are, 0 where it cannot be."""
    size, block = os.fstat(source).st_size, block_of(source)
    first = start + -start % block
    goal = place + first - start
    if first >= size or goal % block:
        return 0
    try:
        fcntl.ioctl(target, _FICLONERANGE, _RANGE.pack(source, first, size - first, goal))
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return 0
    return size - first


def _copy(source: int, start: int, target: int, place: int, length: int) -> None:
    while length:
        try:
            count = os.copy_file_range(source, target, length, start, place)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            count = os.pwrite(target, _read(source, start, min(length, 1 << 20)), place)
        if not count:
            raise ChangedFile("it became shorter while it was read; nothing was changed")
        start, place, length = start + count, place + count, length - count


def _read(fd: int, start: int, length: int) -> bytes:
    data = os.pread(fd, length, start)
    while len(data) < length:
        more = os.pread(fd, length - len(data), start + len(data))
        if not more:
            raise ChangedFile("it became shorter while it was read; nothing was changed")
        data += more
    return data


def _reserve(fd: int, size: int) -> None:
    """So that a full disk is said before the work. A file system may not know how to."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def sync_folder(folder: int) -> None:
    """Make the names in it durable, where its file system can sync a folder. Raises OSError."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
