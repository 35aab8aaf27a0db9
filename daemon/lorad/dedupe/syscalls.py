"""Calls of the kernel that Python has no name for. Each raises OSError as Python's own do."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)

#: linux/fs.h and linux/fiemap.h.
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_FALLOC_FL_UNSHARE_RANGE = 0x40
_FIDEDUPERANGE = 0xC0189436
_DEDUPE = struct.Struct("=QQHHIqQQiI")
_DIFFERS = 1


def rename_new(folder: int, name: bytes, to_folder: int, to_name: bytes) -> None:
    """Rename, unless the new name is taken (FileExistsError)."""
    _renameat2(folder, name, to_folder, to_name, _RENAME_NOREPLACE)


def exchange(folder: int, name: bytes, other: bytes) -> None:
    """Let two names in one folder change places, at once.

    Raises OSError with EINVAL where the file system cannot (NFS, many FUSE, FAT).
    """
    _renameat2(folder, name, folder, other, _RENAME_EXCHANGE)


def _renameat2(folder: int, name: bytes, to_folder: int, to_name: bytes, flags: int) -> None:
    call = getattr(_libc, "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(folder, name, to_folder, to_name, ctypes.c_uint(flags)):
        raise _error(name)


def unshare(fd: int, size: int) -> None:
    """Give a file open for writing blocks of its own. Raises OSError with EOPNOTSUPP where that cannot be."""
    call = _libc.fallocate
    if call(fd, _FALLOC_FL_UNSHARE_RANGE, ctypes.c_longlong(0), ctypes.c_longlong(size)):
        raise _error(None)


def dedupe(source: int, target: int, offset: int, length: int) -> int | None:
    """Let a range of `target` share the blocks of the same range of `source`, where their bytes are equal.

    Returns how many bytes from the start are shared now, which may be fewer than asked for; None where the bytes
    differ. Comparing and sharing are one step for the file system (FIDEDUPERANGE, ioctl_fideduperange(2)).
    """
    request = bytearray(_DEDUPE.pack(offset, length, 1, 0, 0, target, offset, 0, 0, 0))
    fcntl.ioctl(source, _FIDEDUPERANGE, request)
    *_, shared, status, _ = _DEDUPE.unpack(request)
    if status == _DIFFERS:
        return None
    if status < 0:
        raise OSError(-status, os.strerror(-status))
    return int(shared)


def _error(name: bytes | None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), name)
