"""What the kernel says of a name beyond `os.stat`: mount, flags, birth, and why its folder cannot be changed.

Nothing is opened, so that neither a FIFO nor a lease holds anything up. Source: statx(2).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from contextlib import suppress
from typing import NamedTuple

from loracore.identity import bounded

_libc = ctypes.CDLL(None, use_errno=True)

#: linux/fcntl.h and linux/stat.h: AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT; STATX_BASIC_STATS | STATX_MNT_ID.
_AT_FDCWD, _AT_EACCESS, _NOT_FOLLOWED = -100, 0x200, 0x100 | 0x800
_MASK = 0x7FF | 0x1000
#: struct statx: up to stx_attributes_mask, and from stx_dev_major to stx_mnt_id.
_HEAD, _TAIL = struct.Struct("=IIQIIIHxxQQQQ"), struct.Struct("=IIQ")
_TAIL_AT, _SIZE = 136, 256
#: `stx_mask`, `stx_ino`, and seconds and nanoseconds of `stx_btime`.
_INO, _BTIME, _BORN = 0x100, 0x800, struct.Struct("=I28xQ40xqI")
#: STATX_ATTR_IMMUTABLE and STATX_ATTR_APPEND, which are FS_IMMUTABLE_FL and FS_APPEND_FL, too.
_IMMUTABLE, _APPEND = 0x10, 0x20
LOCKED = _IMMUTABLE | _APPEND
#: linux/capability.h
_CAP_FOWNER = 3


class Status(NamedTuple):
    """`mount`: its number in mountinfo, 0 where the kernel does not say. `flags`: of `LOCKED`, those that are set.

    `tells`: whether its file system says here which are.
    """

    mode: int
    uid: int
    gid: int
    dev: int
    ino: int
    mount: int
    flags: int
    tells: bool

    @property
    def is_immutable(self) -> bool:
        return bool(self.flags & _IMMUTABLE)


def statx(path: bytes) -> Status:
    """What stands at a name, not followed. Raises OSError."""
    call = getattr(_libc, "statx", None)
    buffer = ctypes.create_string_buffer(_SIZE)
    number = errno.ENOSYS
    if call is not None:
        if not call(_AT_FDCWD, path, _NOT_FOLLOWED, _MASK, buffer):
            return _unpacked(buffer.raw)
        number = ctypes.get_errno()
    if number not in (errno.ENOSYS, errno.EPERM):
        raise OSError(number, os.strerror(number), path)
    # A C library, a kernel or a sandbox that does not know the call.
    status = os.lstat(path)
    return Status(status.st_mode, status.st_uid, status.st_gid, status.st_dev, status.st_ino, 0, 0, False)


def _unpacked(raw: bytes) -> Status:
    _, _, attributes, _, uid, gid, mode, ino, _, _, told = _HEAD.unpack_from(raw)
    major, minor, mount = _TAIL.unpack_from(raw, _TAIL_AT)
    device = os.makedev(major, minor)
    return Status(mode, uid, gid, device, ino, mount, attributes & LOCKED, told & LOCKED == LOCKED)


def access_error(path: bytes, mode: int) -> int:
    """Why a name may not be used so (os.W_OK …): EROFS, EACCES, EPERM …; 0 where it may."""
    return ctypes.get_errno() if _libc.faccessat(_AT_FDCWD, path, mode, _AT_EACCESS) else 0


@functools.cache
def owns_all() -> bool:
    """Whether this process may do what a file's owner may (CAP_FOWNER)."""
    with open("/proc/self/status", "rb") as file:
        effective = next((line for line in file if line.startswith(b"CapEff:")), b"CapEff: 0")
    return bool(int(effective.split()[1], 16) >> _CAP_FOWNER & 1)


def may_change(folder: bytes) -> bool:
    """Whether names can be made in a folder and be removed again."""
    with suppress(OSError):
        return not access_error(folder, os.W_OK | os.X_OK) and not statx(folder).flags
    return False


def born_ns(path: bytes, ino: int) -> int | None:
    """When the inode `ino`, to which a name leads, was made: a later one with its number has another time.

    What its mode, owner, links and names become since does not change that. None where it is not known: ext4, XFS,
    Btrfs, F2FS, tmpfs, NTFS and others keep it (statx(2), STATX_BTIME).
    """
    call = getattr(_libc, "statx", None)
    buffer = ctypes.create_string_buffer(_SIZE)
    if call is None or call(_AT_FDCWD, path, 0, _INO | _BTIME, buffer):
        return None
    mask, found, seconds, nanoseconds = _BORN.unpack_from(buffer.raw)
    if not mask & _BTIME or found != ino or not seconds:
        return None
    return bounded(int(seconds) * 10**9 + int(nanoseconds))
