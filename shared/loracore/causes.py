"""What is said of a call that the system or SQLite refused: why, and what helps.

An action says it of a call that failed, a plan beforehand of one that would.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
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


#: What actions ask of the system.
HIDE = "put it aside (rename)"
QUARANTINE = "move it into quarantine (rename)"
SYMLINK = "make a link in its folder (symlink)"
LINK = "link the kept file in its place (link)"
EXCHANGE = "put the link in its place (rename)"
SHARE = "share its blocks"
LEASE = "hold it against writers"
STRANGE_QUARANTINE = "others may change it; it must belong to lorad's user, with mode 0700"
NO_ANSWER = "its file system does not answer; look after the server or the disk it is on"

OTHER_ACCESS = (
    "its owner, mode or ACL differ from those of the kept file, and a link can have but one; make them equal, or "
    "order reflink or quarantine"
)

_MAKE_ROOM = "make room, and try again"
_UNABLE = "its file system is not able to; report it only"
_REMEDIES_OF_ACTIONS = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EACCES: "give lorad's user the right to its folder, and try again",
    errno.EBUSY: "unmount what is mounted on it, and try again",
    errno.EPERM: (
        "clear the immutable or append-only flag of it or its folder (chattr -i -a), or run lorad as its owner"
    ),
    errno.EROFS: "mount it for writing, and try again",
    errno.EIO: "look after the disk first",
    errno.EFBIG: "it is too large for its file system",
    errno.EINVAL: _UNABLE,
    errno.ENOSYS: _UNABLE,
    errno.EOPNOTSUPP: "its file system cannot keep that; order quarantine",
    errno.EMFILE: "give lorad more open files (LimitNOFILE), and try again",
    errno.ENAMETOOLONG: "shorten its path, and try again",
}
_NO_EXCHANGE = "its file system cannot exchange two names at once; order delete or quarantine"
_NO_SHARING = "its file system cannot share blocks between these two files; order hardlink, symlink or quarantine"
_NO_LEASES = "its file system has no leases, so that nobody could be kept from writing to it; report it only"
#: What is said in whole where a call and its error say more together.
_SPECIAL = {
    (HIDE, errno.EXDEV): "its folder lies in a lower layer of an overlay, which renames no folder; order a link",
    (QUARANTINE, errno.EXDEV): (
        "it lies on another file system, mount or project quota than its root; make its folder a root of its own"
    ),
    (LINK, errno.EXDEV): (
        "a hard link cannot lead to another file system, mount or project quota; order symlink or quarantine"
    ),
    (LINK, errno.EPERM): (
        "the kept file or its folder is immutable or append-only; clear that (chattr -i -a), or order symlink"
    ),
    (LINK, errno.EMLINK): "its twin has as many hard links as its file system allows; order symlink or quarantine",
    (EXCHANGE, errno.EINVAL): _NO_EXCHANGE,
    (EXCHANGE, errno.ENOSYS): _NO_EXCHANGE,
    (SHARE, errno.EXDEV): "blocks cannot be shared between file systems; order symlink or quarantine",
    **{(SHARE, number): _NO_SHARING for number in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)},
    (LEASE, errno.EAGAIN): "somebody has it open for writing; try again when it is closed",
    (LEASE, errno.EACCES): (
        "it belongs to another user; only its owner can hold it against writers, so run lorad as him"
    ),
    (LEASE, errno.EPERM): "it may not be held against writers; run lorad as the owner of the file",
    **{(LEASE, number): _NO_LEASES for number in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)},
}


@contextmanager
def doing(what: str, *, forbidden: str = "") -> Iterator[None]:
    """Let an OSError from within say what was tried; `forbidden` is what helps against EPERM alone."""
    try:
        yield
    except OSError as error:
        if not hasattr(error, "__notes__"):
            error.add_note(what)
            error.add_note(forbidden)
        raise


def told(error: OSError) -> str:
    """The error in one line, with the remedy."""
    what, forbidden = getattr(error, "__notes__", ("", ""))[:2]
    number = error.errno or 0
    if number not in errno.errorcode:
        return f"cannot {what}: {error}; try again" if what else f"{error}; try again"
    return words(what, number, forbidden)


def words(what: str, number: int, forbidden: str = "") -> str:
    """What is said of a call that fails with this error number; empty for 0."""
    if not number:
        return ""
    if (what, number) in _SPECIAL:
        return _SPECIAL[what, number]
    reason = os.strerror(number).lower()
    remedy = (forbidden if number == errno.EPERM else "") or _REMEDIES_OF_ACTIONS.get(number, "try again")
    return f"cannot {what}: {reason}; {remedy}" if what else f"{reason}; {remedy}"


def no_quarantine(number: int) -> str:
    """Of a folder for quarantine that cannot be made, or is none."""
    remedy = _REMEDIES_OF_ACTIONS[number] if number == errno.EROFS else "let lorad's user make it"
    return f"cannot be used for quarantine: {os.strerror(number).lower()}; {remedy}"
