"""What is said of a call that the system refused: which one it was, why, and what helps against it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

_FULL = "make room, and try again"
_DENIED = "give lorad's user the right to its folder, and try again"
_FLAGGED = "clear the immutable or append-only flag of it or its folder (chattr -i -a), or run lorad as its owner"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _FLAGGED,
    errno.EROFS: "mount it for writing, and try again",
    errno.EIO: "look after the disk first",
    errno.EOPNOTSUPP: "its file system cannot keep that; order quarantine",
    errno.EMFILE: "give lorad more open files (LimitNOFILE), and try again",
    errno.ENAMETOOLONG: "shorten its path, and try again",
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
    reason = (error.strerror or str(error)).lower()
    remedy = (forbidden if error.errno == errno.EPERM else "") or _REMEDIES.get(error.errno or 0, "try again")
    return f"cannot {what}: {reason}; {remedy}" if what else f"{reason}; {remedy}"
