"""The folders that one lorad at a time may work in: made, locked, and their SQLite files opened."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from typing import Literal

from loracore.causes import explained, reason
from loracore.errors import StateError, StateLocked
from loracore.whole import regular

_LOCK = "lock"
#: Said of a state folder whose disk was unmounted, so that another folder shows.
ANOTHER = "its folder is another one than at the start: mount its disk again, or restart lorad"
#: Of folders that we make, under any umask.
_MODE = 0o750


def made(folder: str) -> None:
    """Make a folder, if there is none, with our mode under any umask. Raises OSError."""
    try:
        os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
        os.mkdir(folder)
    except FileExistsError:
        os.stat(os.path.join(folder, "."))
    else:
        os.chmod(folder, _MODE)


@contextlib.contextmanager
def locked(folder: str, *, option: str = "--state-dir") -> Iterator[None]:
    """Make a folder if need be, and lock it against a second lorad.

    The lock goes with the process that holds it. Raises StateLocked and StateError, which name `option` as the
    way to another folder.
    """
    try:
        made(folder)
    except OSError as error:
        raise StateError(f"{folder}: {reason(error)}; give another {option}") from error
    try:
        lock = _opened(folder)
    except OSError as error:
        path = os.path.join(folder, _LOCK)
        raise StateError(f"{path}: {explained(error)}, or give another {option}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StateLocked(f"{folder}: another lorad works on it; wait for it or give another {option}") from error
    try:
        yield
    finally:
        os.close(lock)


def is_locked(folder: str) -> bool:
    """Whether a lock is there, ours or another's."""
    return os.path.lexists(os.path.join(folder, _LOCK))


def lock_again(folder: str) -> None:
    """Lock a folder of ours whose lock was removed; it stays locked until the process ends. Raises OSError."""
    fcntl.flock(_opened(folder), fcntl.LOCK_EX | fcntl.LOCK_NB)


def _opened(folder: str) -> int:
    return os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


#: What SQLite keeps beside a database.
_BESIDE = ("", "-wal", "-shm", "-journal")


def connect(
    path: str, mode: Literal["rwc", "rw", "ro"], *, cached_statements: int = 128, timeout: float = 5.0
) -> sqlite3.Connection:
    """A connection without transactions of its own.

    Raises sqlite3.OperationalError: also where a pipe, socket or device stands at a name that SQLite would open.
    """
    for suffix in _BESIDE:
        try:
            status = os.stat(path + suffix)
        except OSError:
            continue
        if not stat.S_ISREG(status.st_mode):
            name = os.path.basename(path) + suffix
            raise sqlite3.OperationalError(f"{name} is not a regular file; move it away")
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(
        f"file:{quoted}?mode={mode}",
        uri=True,
        isolation_level=None,
        cached_statements=cached_statements,
        timeout=timeout,
    )


FORMAT = 1
VIEWS = ("processed.json", "groups.json", "refined_groups.json", "duplicates.json", "statistics.json")
_HEAD = re.compile(rb'\{"format": %d, "generation": (\d+), ' % FORMAT)


def written_generation(folder: str) -> int:
    """The generation that all five files in `folder` are of; -1 if one is missing or of another."""
    generations = set()
    for name in VIEWS:
        try:
            with open(os.path.join(folder, name), "rb", opener=regular) as file:
                head = _HEAD.match(file.read(100))
        except OSError:
            return -1
        generations.add(int(head[1]) if head else -1)
    return generations.pop() if len(generations) == 1 else -1
