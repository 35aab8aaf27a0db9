"""The folders that one lorad at a time may work in."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from loracore.errors import StateError, StateLocked


@contextlib.contextmanager
def locked(folder: str, *, mode: int = 0o755, option: str = "--state-dir") -> Iterator[None]:
    """Make a folder if need be, and lock it against a second lorad.

    The lock goes with the process that holds it. Raises StateLocked and StateError, which name `option` as the
    way to another folder.
    """
    try:
        os.makedirs(folder, mode=mode, exist_ok=True)
        lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{folder}: {(error.strerror or str(error)).lower()}; give another {option}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StateLocked(f"{folder}: another lorad works on it; wait for it or give another {option}") from error
    try:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def state_folder(folder: str) -> Iterator[str]:
    """A state folder, locked; gives the folder for the sockets of a lorad that has no other."""
    runtime_dir = os.path.join(folder, "run")
    with locked(folder):
        try:
            os.makedirs(runtime_dir, mode=0o700, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StateError(f"{runtime_dir}: {reason}; give another --state-dir") from error
        yield runtime_dir
