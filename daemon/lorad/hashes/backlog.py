"""Which files have no identity hashes yet, as the catalogue says."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from loracore.identity import Identity
from lorad.catalog.views import connect

_KNOWN = (
    "FROM files LEFT JOIN hashes ON hashes.file = files.id WHERE status IN ('grouped', 'unique', 'duplicate') "
    "AND EXISTS (SELECT 1 FROM names WHERE names.file = files.id AND active = 1)"
)
_WANTED = (
    f"SELECT id, dev, ino, size, mtime_ns, ctime_ns, coalesce(hashes.deaths, 0) {_KNOWN} "
    "AND sha256 IS NULL AND hashes.error IS NULL"
)
_NEWER = f"{_WANTED} AND id > ? ORDER BY id LIMIT 1"
_OLDER = f"{_WANTED} AND id < ? ORDER BY id DESC LIMIT 1"
_END = 2**63 - 1


class Wanted(NamedTuple):
    """A file to be hashed: its number in the catalogue, its names, and how many processes died of it."""

    file: int
    identity: Identity
    paths: list[bytes]
    deaths: int


class Counts(NamedTuple):
    """Files in view that have hashes, those that have none yet, and those that cannot be hashed."""

    hashed: int = 0
    waiting: int = 0
    failed: int = 0


class Backlog:
    """Goes through the files without hashes, each once: what came last, then back to what was first.

    For one thread. All methods raise sqlite3.Error where the catalogue cannot be read; call `close` then.
    """

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._connection: sqlite3.Connection | None = None
        self._newest = self._oldest = _END

    def begin(self) -> None:
        """Go through all of them again."""
        self._newest = self._oldest = _END

    def next(self) -> Wanted | None:
        """A file that was not given since the beginning; what arrived meanwhile comes first."""
        row = self._db.execute(_NEWER, (self._newest,)).fetchone()
        if row is not None:
            self._newest = row[0]
        else:
            row = self._db.execute(_OLDER, (self._oldest,)).fetchone()
            if row is None:
                return None
            self._oldest = row[0]
            if self._newest == _END:
                self._newest = row[0]
        file, dev, ino, size, mtime_ns, ctime_ns, deaths = row
        names = self._db.execute("SELECT path FROM names WHERE file = ? AND active = 1 ORDER BY path", (file,))
        identity = Identity.of_stored(dev, ino, size, mtime_ns, ctime_ns)
        return Wanted(file, identity, [path for (path,) in names], deaths)

    def counts(self) -> Counts:
        return count(self._db)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._state_dir)
        return self._connection


def count(db: sqlite3.Connection) -> Counts:
    """Takes about as long as reading the list of all files."""
    query = f"SELECT count(*), count(sha256), count(hashes.error) {_KNOWN}"
    known, hashed, failed = db.execute(query).fetchone()
    return Counts(hashed, known - hashed - failed, failed)
