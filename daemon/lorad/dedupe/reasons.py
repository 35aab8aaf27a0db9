"""Why a file is left as it is: the same words in a plan beforehand, and of an action that the system refuses."""

from __future__ import annotations

import enum
import errno
import os

from loracore.paths import shown


class Call(enum.Enum):
    """What an action asks of the system."""

    HIDE = "rename it in its folder"
    QUARANTINE = "move it into quarantine"
    LINK = "hard-link the kept file in its place"
    EXCHANGE = "let the link and the file change places"
    SHARE = "share blocks"
    LEASE = "hold it against writers"


ADAPTER_PART = "it is a part of an adapter folder, which is acted on as a whole or by links in place"
MOUNTED_INSIDE = "something is mounted in its folder; unmount that first"
NOT_IN_ROOT = "it lies in no watched folder any more; see [watch] roots"

_READ_ONLY = "it is on a read-only mount or subvolume; mount it for writing, and try again"
_DENIED = "lorad's user may not change its folder; give it the right, or run lorad as the owner of the files"
_LOCKED = (
    "it or its folder is immutable or append-only, or its folder is sticky and it belongs to another user; "
    "clear the flag (chattr -i -a), or run lorad as its owner"
)
_BUSY = "something is mounted on it; unmount that first"
_FULL = "its disk or quota is full; make room, and try again"
_OLD_RENAME = "its file system cannot rename a file without risk to another one; report it only"
_NO_LEASES = "its file system has no leases, so that nobody could be kept from writing to it; report it only"

#: What any call may say.
_COMMON = {
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _DENIED,
    errno.EPERM: _LOCKED,
    errno.EBUSY: _BUSY,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}
_OF_CALL = {
    (Call.HIDE, errno.EINVAL): _OLD_RENAME,
    (Call.HIDE, errno.EXDEV): "its folder cannot be renamed at once on an overlay; order hardlink or symlink",
    (Call.QUARANTINE, errno.EINVAL): _OLD_RENAME,
    (Call.QUARANTINE, errno.EXDEV): (
        "it lies on another file system, mount or project quota than its root; make that folder a root of its own"
    ),
    (Call.LINK, errno.EXDEV): (
        "a hard link cannot lead to another file system, mount or project quota; order symlink or quarantine"
    ),
    (Call.LINK, errno.EMLINK): (
        "its twin has as many hard links as its file system allows; order symlink or quarantine"
    ),
    (Call.EXCHANGE, errno.EINVAL): "its file system cannot exchange two names at once; order delete",
    (Call.EXCHANGE, errno.ENOSYS): "this system cannot exchange two names at once; order delete",
    (Call.SHARE, errno.EXDEV): "blocks cannot be shared between file systems; order symlink or quarantine",
    (Call.LEASE, errno.EAGAIN): "somebody has it open for writing; try again when it is closed",
    (Call.LEASE, errno.EACCES): (
        "it belongs to another user; only its owner can hold it against writers, so run lorad as him"
    ),
    (Call.LEASE, errno.EPERM): "it may not be held against writers; run lorad as the owner of the file",
    (Call.LEASE, errno.EINVAL): _NO_LEASES,
    (Call.LEASE, errno.EOPNOTSUPP): _NO_LEASES,
    (Call.LEASE, errno.ENOSYS): _NO_LEASES,
    **{
        (Call.SHARE, number): (
            "its file system cannot share blocks between these two files; order hardlink, symlink or quarantine"
        )
        for number in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)
    },
}  # fmt: skip


def reason(call: Call, number: int) -> str:
    """What a call's error number means for the file, with the remedy; empty for one that says nothing special."""
    return _OF_CALL.get((call, number)) or _COMMON.get(number, "")


def other_access(kept: bytes) -> str:
    """A link has the owner, mode and ACL of what it leads to."""
    return (
        f"its owner, mode or ACL differ from those of {shown(kept)}, and a link can have but one; "
        "make them equal, or order reflink or quarantine"
    )


def one_storage(kept: bytes) -> str:
    """Both names lead to one file."""
    return f"it is {shown(kept)} itself, seen through another mount; watch one of the two folders only"


def maybe_one_storage(kept: bytes) -> str:
    """Of files on overlay, FUSE or a network that are to be acted on by themselves."""
    return f"it may be {shown(kept)} itself, seen through another mount; order it with dedupe --apply"


def same_entry(path: bytes) -> str:
    """Of a name that is another one, seen through a bind mount."""
    return f"it is the name {shown(path)}, seen through another mount"


def other_name_stays(path: bytes, why: str) -> str:
    """A file goes with all its names or not at all."""
    return f"its other name {shown(path)} has to stay: {why}"


def of_kept(kept: bytes, why: str) -> str:
    """What is said of the kept file, as an action says it."""
    return f"{shown(kept)}: {why}"


def no_quarantine(folder: bytes, number: int) -> str:
    """Of a folder for quarantine that cannot be made, or is none."""
    why = os.strerror(number).lower()
    return f"{shown(folder)}: cannot be used for quarantine: {why}; let lorad's user make it"


def strange_quarantine(folder: bytes) -> str:
    """Of a folder for quarantine in which others could put files in the place of what was moved there."""
    return f"{shown(folder)}: others may change it; it must belong to lorad's user, with mode 0700"
