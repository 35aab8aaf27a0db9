"""Opening an SQLite file of the state folder: whatever stands at its name, opening does not wait."""

from __future__ import annotations

import os
import sqlite3
import stat
from typing import Literal

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
