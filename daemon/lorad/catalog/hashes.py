"""The identity hashes of SPEC section 6, as the catalogue has them: those that begin others are not kept twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from loracore.identity import Identity
from loracore.jobs.hashes import HashesResult
from lorad.catalog.views import TOLD, names_of

_KNOWN = (
    f"FROM files LEFT JOIN hashes ON hashes.file = files.id WHERE status IN {TOLD} "
    "AND EXISTS (SELECT 1 FROM names WHERE names.file = files.id AND active = 1)"
)
_WANTED = (
    f"SELECT id, coalesce(hashes.deaths, 0), dev, ino, size, mtime_ns, ctime_ns {_KNOWN} "
    "AND sha256 IS NULL AND hashes.error IS NULL"
)
_TAGGED = "AND model IS NULL AND EXISTS (SELECT 1 FROM tagged WHERE tagged.file = files.id)"


class Identified(NamedTuple):
    """A row of the table `hashes`, without its file. `model` is `sshs_model_hash`, `legacy` `sshs_legacy_hash`."""

    sha256: bytes | None = None
    autov1: bytes | None = None
    model: bytes | None = None
    legacy: bytes | None = None
    blake3: bytes | None = None
    crc32: bytes | None = None
    error: str | None = None
    deaths: int = 0

    @classmethod
    def of(cls, result: HashesResult) -> Identified:
        return cls(
            bytes.fromhex(result.sha256),
            _bytes(result.autov1),
            _bytes(result.sshs_model_hash),
            _bytes(result.sshs_legacy_hash),
            bytes.fromhex(result.blake3),
            bytes.fromhex(result.crc32),
        )

    def hexadecimal(self) -> dict[str, str]:
        """The hashes that there are, by their names in `HashesResult`."""
        columns = ((kind, getattr(self, kind.column)) for kind in KINDS)
        return {kind.name: value[: kind.length].hex() for kind, value in columns if value is not None}


class Kind(NamedTuple):
    """A hash by its name in `HashesResult`: the first `length` bytes of a column."""

    name: str
    column: str
    length: int


KINDS = (
    Kind("sha256", "sha256", 32),
    Kind("autov1", "autov1", 4),
    Kind("autov2", "sha256", 5),
    Kind("autov3", "model", 6),
    Kind("sshs_model_hash", "model", 32),
    Kind("sshs_legacy_hash", "legacy", 4),
    Kind("blake3", "blake3", 32),
    Kind("crc32", "crc32", 4),
)
_COLUMNS = ", ".join(Identified._fields)


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


class HashTable:
    """`hashes`, on the writer's connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def of(self, file: int) -> Identified:
        return hashes_of(self._db, file)

    def save(self, file: int, found: Identified) -> None:
        """Keep the identity hashes of a file, or why it has none."""
        marks = ", ".join("?" * (1 + len(found)))
        self._db.execute(f"INSERT OR REPLACE INTO hashes (file, {_COLUMNS}) VALUES ({marks})", (file, *found))


def hashes_of(db: sqlite3.Connection, file: int) -> Identified:
    """What there is; nothing where it is not hashed yet."""
    row = db.execute(f"SELECT {_COLUMNS} FROM hashes WHERE file = ?", (file,)).fetchone()
    return Identified(*row) if row else Identified()


def wanted_after(db: sqlite3.Connection, file: int, *, tagged: bool = False) -> Wanted | None:
    """The first file above this number that has no hashes yet. `tagged`: of those in the table of this name."""
    query = f"{_WANTED} {_TAGGED if tagged else ''} AND id > ? ORDER BY id LIMIT 1"
    return _wanted(db, db.execute(query, (file,)).fetchone())


def wanted_before(db: sqlite3.Connection, file: int, *, tagged: bool = False) -> Wanted | None:
    """The last one below it."""
    query = f"{_WANTED} {_TAGGED if tagged else ''} AND id < ? ORDER BY id DESC LIMIT 1"
    return _wanted(db, db.execute(query, (file,)).fetchone())


def count(db: sqlite3.Connection) -> Counts:
    """Takes about as long as reading the list of all files."""
    query = f"SELECT count(*), count(sha256), count(hashes.error) {_KNOWN}"
    known, hashed, failed = db.execute(query).fetchone()
    return Counts(hashed, known - hashed - failed, failed)


def _wanted(db: sqlite3.Connection, row: Sequence[int] | None) -> Wanted | None:
    if row is None:
        return None
    file, deaths, *stored = row
    return Wanted(file, Identity.of_stored(*stored), names_of(db, file), deaths)


def _bytes(value: str | None) -> bytes | None:
    return bytes.fromhex(value) if value is not None else None
