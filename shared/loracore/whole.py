"""Files that are there whole or not at all, and that are opened only where they are files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile

from loracore.errors import UsageError
from loracore.paths import shown


def check_place(path: str) -> None:
    """Whether a file can be made there, asked before what shall be in it is computed. Raises UsageError."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UsageError(f"{shown(path)}: there is no folder {shown(folder)}; make it first")
    if os.path.isdir(path):
        raise UsageError(f"{shown(path)}: it is a folder; give a file's name")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{shown(path)}: you may not write into {shown(folder)}; take another folder")


def regular(path: str | bytes, flags: int) -> int:
    """An `opener` for `open`: of regular files alone, so that no pipe, socket or device is ever waited for."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ENXIO, "not a regular file", path)
    return fd


def write_whole(path: str | bytes | os.PathLike[str], data: bytes) -> None:
    """Write a file under a temporary name beside `path`, then give it its name; one of that name is replaced.

    Its mode is what the umask leaves. Raises OSError, which names `path`.
    """
    name = os.fsdecode(path)
    try:
        _write(name, data)
    except OSError as error:
        error.filename, error.filename2 = name, None
        raise


def _write(name: str, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=".lorad-", dir=os.path.dirname(os.path.abspath(name)))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(temporary, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
