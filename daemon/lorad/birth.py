"""When an inode was made, which tells it from another one that got its number after it was removed.

What its mode, owner, links and names become since does not change that. Source: statx(2), STATX_BTIME; ext4, XFS,
Btrfs, F2FS, tmpfs, NTFS and others keep it. `os.stat` does not say it on Linux.
"""

from __future__ import annotations

import ctypes
import struct

from loracore.identity import bounded

_AT_FDCWD = -100
_INO, _BTIME = 0x100, 0x800
#: `stx_mask`, `stx_ino`, and seconds and nanoseconds of `stx_btime`, in the 256 bytes of `struct statx`.
_STATX = struct.Struct("=I28xQ40xqI")
_SIZE = 256
_statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)


def born_ns(path: bytes, ino: int) -> int | None:
    """When the inode `ino`, to which a name leads, was made; None where that is not known."""
    if _statx is None:
        return None
    buffer = ctypes.create_string_buffer(_SIZE)
    if _statx(_AT_FDCWD, path, 0, _INO | _BTIME, buffer):
        return None
    mask, found, seconds, nanoseconds = _STATX.unpack_from(buffer.raw)
    if not mask & _BTIME or found != ino or not seconds:
        return None
    return bounded(int(seconds) * 10**9 + int(nanoseconds))
