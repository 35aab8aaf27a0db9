"""Letting two files share their blocks, in place: name, owner, mode and times stay.

The file system compares and shares in one step (FIDEDUPERANGE: XFS, Btrfs, bcachefs, OCFS2), so no write can come
between, and an interruption anywhere leaves both files whole.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import struct
import time

from loracore.causes import SHARE, words
from loracore.identity import Identity
from lorad.blocks.extents import own_ranges
from lorad.dedupe.action.compare import pieces
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.hold import Held
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.order import Progress, Refused, RefusedAsDifferent
from lorad.dedupe.action.place import Reached, closing_fd, open_file, reach
from lorad.dedupe.action.registry import Action, Proven, register

#: The most that Btrfs and XFS take at once.
_AT_ONCE = 16 << 20
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.ENOSYS)
#: Seconds that a file may still be open, and between two looks.
_A_MOMENT = 0.5
_PAUSE = 0.01
_libc = ctypes.CDLL(None, use_errno=True)
#: linux/fs.h and linux/falloc.h.
_FALLOC_FL_UNSHARE_RANGE = 0x40
_FIDEDUPERANGE = 0xC0189436
_DEDUPE = struct.Struct("=QQHHIqQQiI")
_DIFFERS = 1
_CANNOT = words(SHARE, errno.EOPNOTSUPP)


@register
class Reflink(Action):
    name = "reflink"
    levels = ("file",)
    links = True
    hides = False
    state = final = "shared"

    def perform(self, context: Context, act: Proven, places: dict[int, int], progress: Progress) -> None:
        _share(context, act.kept, act.gone, act.ranges, progress)


def ranges_to_share(kept: Held, gone: Held) -> list[tuple[int, int]]:
    """The ranges that take space of their own. Raises Refused where the file system does not tell."""
    if kept.before.st_dev != gone.before.st_dev:
        raise Refused.about(gone.path, words(SHARE, errno.EXDEV))
    if kept.before.st_size != gone.before.st_size:
        raise Refused.about(gone.path, f"it is not as long as {os.fsdecode(kept.path)}; scan again")
    try:
        return own_ranges(kept.fd, gone.fd)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise Refused.about(gone.path, _CANNOT) from error
        raise


def _share(context: Context, kept: Held, gone: Held, ranges: list[tuple[int, int]], progress: Progress) -> None:
    """Let the ranges of `gone` share the blocks of `kept`. Raises Refused where they differ, and OSError."""
    total = sum(length for _, length in ranges)
    done = 0
    for start, length in ranges:
        offset = start
        while offset < start + length:
            try:
                shared = share_range(kept.fd, gone.fd, offset, min(_AT_ONCE, start + length - offset))
            except OSError as error:
                if error.errno in _UNSUPPORTED:
                    raise Refused.about(gone.path, _CANNOT) from error
                raise
            if shared is None:
                raise RefusedAsDifferent.about(
                    gone.path, f"it is not the same as {os.fsdecode(kept.path)} any more; scan again"
                )
            if not shared:
                raise Refused.about(gone.path, _CANNOT)
            context.at("shared")
            offset += shared
            done += min(shared, start + length - offset + shared)
            progress(done, total)


def undo(context: Context, entry: Entry, reached: Reached) -> str:
    """Give the file blocks of its own where the file system can (XFS); returns what is to be said.

    Raises Refused where somebody has the file open, and OSError, as when there is no room.
    """
    status = reached.status()
    if status is None or not _is_unchanged(entry, status):
        return "it was changed or moved since; there is nothing to bring back"
    with closing_fd(os.open(reached.name, _OPEN, dir_fd=reached.folder)) as fd:
        _hold_alone(fd, reached.path)
        status = os.fstat(fd)
        if not _is_unchanged(entry, status):
            return "it was changed since; there is nothing to bring back"
        try:
            unshare(fd, status.st_size)
            context.at("unshared")
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            return "nothing had to be brought back; its file system takes the blocks apart at the next write"
        finally:
            os.utime(fd, ns=(status.st_atime_ns, entry.attributes.mtime_ns))
        os.fsync(fd)
    return "its blocks are its own again"


def restore_times(entry: Entry, reached: Reached) -> None:
    """After an undo was interrupted, which changes mtime: set it back if the content was not changed."""
    status = reached.status()
    if status is None or status.st_ino != entry.gone.identity.ino or _is_unchanged(entry, status):
        return
    with closing_fd(os.open(reached.name, _OPEN, dir_fd=reached.folder)) as fd:
        _hold_alone(fd, reached.path)
        status = os.fstat(fd)
        with reach(entry.kept.root, entry.kept.path) as kept_at, closing_fd(open_file(kept_at)) as kept:
            size = os.fstat(kept).st_size
            if status.st_size == size == entry.gone.identity.size and all(
                one == other for one, other in zip(pieces(kept, 0, size), pieces(fd, 0, size), strict=True)
            ):
                os.utime(fd, ns=(status.st_atime_ns, entry.attributes.mtime_ns))


def _is_unchanged(entry: Entry, status: os.stat_result) -> bool:
    return entry.gone.identity.lasts(Identity.of(status))


def _hold_alone(fd: int, path: bytes) -> None:
    """A write lease: nobody else has the file open, and whoever opens it waits until the descriptor is closed.

    Who looks at it just now, as lorad does for its blocks, has a moment to be done.
    """
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    until = time.monotonic() + _A_MOMENT
    while True:
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            if error.errno != errno.EAGAIN or time.monotonic() >= until:
                raise Refused.about(path, "somebody has it open; try again when it is closed") from error
            time.sleep(_PAUSE)
        else:
            return


def unshare(fd: int, size: int) -> None:
    """Give a file open for writing blocks of its own. Raises OSError with EOPNOTSUPP where that cannot be."""
    call = _libc.fallocate
    if call(fd, _FALLOC_FL_UNSHARE_RANGE, ctypes.c_longlong(0), ctypes.c_longlong(size)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def share_range(source: int, target: int, offset: int, length: int) -> int | None:
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
