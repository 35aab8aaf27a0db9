"""What is said of a call that the system refuses, by an action, and by a plan beforehand: why, and what helps."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

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

_FULL = "make room, and try again"
_UNABLE = "its file system is not able to; report it only"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
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
    remedy = (forbidden if number == errno.EPERM else "") or _REMEDIES.get(number, "try again")
    return f"cannot {what}: {reason}; {remedy}" if what else f"{reason}; {remedy}"


def no_quarantine(number: int) -> str:
    """Of a folder for quarantine that cannot be made, or is none."""
    remedy = _REMEDIES[number] if number == errno.EROFS else "let lorad's user make it"
    return f"cannot be used for quarantine: {os.strerror(number).lower()}; {remedy}"
