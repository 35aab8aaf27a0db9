"""What is said of a call that the system or SQLite refused: why, and what helps against just that."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3  # who has an error of it has it loaded

_AGAIN = "try again"
_DENIED = "give the user that lorad runs as the right to it"
_FULL = "make room there"
_READ_ONLY = "mount it for writing, or give its path to ReadWritePaths= of the service"
_INODES = "no inodes are left on its disk; remove some files there, however small"
_AWAY = "look after the server or the disk it is on"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "make room there, or raise the quota",
    errno.EFBIG: "its file system takes no file so large",
    errno.EACCES: _DENIED,
    errno.EPERM: f"{_DENIED}, or clear its immutable flag (chattr -i -a)",
    errno.EROFS: _READ_ONLY,
    errno.EIO: "look after the disk first",
    errno.EBUSY: "it is a mount point or otherwise in use; unmount it or wait",
    errno.EINVAL: "its file system cannot do that",
    errno.EOPNOTSUPP: "its file system cannot do that",
    errno.ENOSYS: "its file system cannot do that",
    errno.EXDEV: "it lies on another disk or mount",
    errno.ENOENT: "see that it is there",
    errno.ENOTDIR: "a file stands where a folder should; move it away",
    errno.EISDIR: "a folder stands where a file should; move it away",
    errno.ELOOP: "its symbolic links lead in a circle; mend them",
    errno.ENAMETOOLONG: "shorten its path",
    errno.EMFILE: "allow more open files (LimitNOFILE=, ulimit -n)",
    errno.ENFILE: "allow more open files (sysctl fs.file-max)",
    errno.ENOMEM: "free some memory",
    errno.ENXIO: "it is no regular file; move it away",
    errno.ETXTBSY: "it is in use; end the program that has it",
    errno.ESTALE: "mount it again",
    errno.ENOTCONN: "mount it again",
    errno.ETIMEDOUT: _AWAY,
    errno.EHOSTDOWN: _AWAY,
    errno.EREMOTEIO: _AWAY,
}
#: By SQLite's primary result code (sqlite3.h); of some the place may explain more.
_READONLY, _IOERR, _CORRUPT, _CANTOPEN, _NOTADB = 8, 10, 11, 14, 26
_SQLITE = {
    5: "another program has it open; end that",
    6: "another program has it open; end that",
    7: "free some memory",
    _READONLY: _READ_ONLY,
    _IOERR: "look after the disk first",
    _CORRUPT: "move it away to start afresh",
    13: _FULL,
    _CANTOPEN: "see that its folder is there and the user that lorad runs as may write to it",
    _NOTADB: "move it away to start afresh",
}
_OF_THE_PLACE = (errno.ENOSPC, errno.EACCES)
_OF_THE_PLACE_IN_SQLITE = (_READONLY, _IOERR, 13, _CANTOPEN)


def reason(error: OSError) -> str:
    """Why, in the system's words."""
    return (error.strerror or str(error)).lower()


def explained(error: OSError | sqlite3.Error, path: bytes | str = "") -> str:
    """Why and the remedy, in one line. `path`: what was to be opened or written, to see how its disk is."""
    if isinstance(error, OSError):
        text, known = reason(error), _REMEDIES.get(error.errno or 0, _AGAIN)
        looks = error.errno in _OF_THE_PLACE
    else:
        # Errors of the module itself, such as a connection that is closed, have no code.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        text, known = str(error), _SQLITE.get(code, _AGAIN)
        looks = code in _OF_THE_PLACE_IN_SQLITE or not code
        if path and os.path.isdir(path):
            known, looks = _REMEDIES[errno.EISDIR], False
    return f"{text}; {(looks and path and state_of(path)) or known}"


def state_of(path: bytes | str) -> str:
    """What is wrong with the disk or the place of something that is written, with the remedy; empty if nothing."""
    name = os.fsencode(path)
    folder = name if os.path.isdir(name) else os.path.dirname(os.path.abspath(name))
    with contextlib.suppress(FileNotFoundError):
        if name != folder and not stat.S_ISREG(os.lstat(name).st_mode):
            return "it is no regular file; move it away"
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        return f"its folder cannot be used ({reason(error)}); {_REMEDIES.get(error.errno or 0, _AGAIN)}"
    if disk.f_flag & os.ST_RDONLY:
        return f"its disk is read-only; {_READ_ONLY}"
    if disk.f_files and not disk.f_favail:
        return _INODES
    if not disk.f_bavail:
        return f"its disk is full; {_FULL}"
    if not os.access(folder, os.W_OK | os.X_OK) or (os.path.exists(name) and not os.access(name, os.W_OK)):
        return f"permission denied; {_DENIED}"
    return ""
