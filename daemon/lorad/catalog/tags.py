"""What users say of models: a database of its own, as nothing else can tell it anew, and which files it is of.

`tags.sqlite` knows a model by what outlives a move: the layout, and a digest over its data as `lorad.hashes`
computes it; until that is known, by its inode. The catalogue's table `tagged` follows from it, see
`lorad.index.tags`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from loracore.tags import Tags, decode, encode
from lorad import state_folder

FILE = "tags.sqlite"
#: Bytes of a digest.
DIGEST = 32
#: Files that are hashed to see whether something was said of them have this in `tagged`.
UNSURE = 0
_VERSION = 1
_TABLES = """
    CREATE TABLE models (
        id INTEGER PRIMARY KEY, said BLOB NOT NULL, layout BLOB NOT NULL, digests BLOB NOT NULL,
        ino INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL
    );
    PRAGMA user_version = 1;
"""


class Inode(NamedTuple):
    """What a rename leaves as it is. Numbers of devices may change, so that is not among it."""

    ino: int
    size: int
    mtime_ns: int


class Model:
    """A model of which something is said. `layout` is a signature, `digests` are of 32 bytes each.

    Both are empty while they are not known. There are several digests where files hold the same weights in other
    bytes.
    """

    __slots__ = ("digests", "files", "id", "inode", "layout", "said")

    def __init__(self, number: int, said: Tags, layout: bytes, digests: bytes, inode: Inode) -> None:
        self.id = number
        self.said = said
        self.layout = layout
        self.digests = digests
        self.inode = inode
        #: Numbers of the files that are known to be it.
        self.files: set[int] = set()

    @property
    def each_digest(self) -> list[bytes]:
        return [self.digests[at : at + DIGEST] for at in range(0, len(self.digests), DIGEST)]


class TagsDatabase:
    """Raises sqlite3.Error where it cannot be read or written, or is another program's."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, FILE)
        # The core waits no longer for who else has it open.
        self._db = state_folder.connect(self.path, "rwc", timeout=1.0)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise sqlite3.DatabaseError(f"it is of version {version}, this lorad knows {_VERSION}")
            if not version:
                self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
        except sqlite3.Error:
            self._db.close()
            raise

    def models(self) -> Iterator[Model]:
        query = "SELECT id, said, layout, digests, ino, size, mtime_ns FROM models"
        for number, said, layout, digests, *inode in self._db.execute(query):
            try:
                yield Model(number, decode(said), layout, digests, Inode(*inode))
            except msgspec.MsgspecError as error:
                raise sqlite3.DatabaseError(f"what it says of model {number} cannot be read: {error}") from error

    def save(self, models: Iterable[Model]) -> None:
        """Write these down, durably; those of which nothing is said any more are dropped."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for model in models:
                self._db.execute("DELETE FROM models WHERE id = ?", (model.id,))
                if model.said:
                    row = model.id, encode(model.said), model.layout, model.digests, *model.inode
                    self._db.execute("INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.rollback()
            raise

    def close(self) -> None:
        self._db.close()


class TagTable:
    """`tagged`, on the catalogue writer's connection. Rows of files that are dropped go with them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def known(self) -> list[tuple[int, int, bytes, int]]:
        """Numbers of files, each with that of its model or `UNSURE`, what is said, and whether it is hashed."""
        hashed = "SELECT 1 FROM hashes WHERE file = tagged.file AND coalesce(sha256, model) IS NOT NULL"
        return self._db.execute(f"SELECT file, model, said, EXISTS ({hashed}) FROM tagged").fetchall()

    def save(self, file: int, model: int | None, said: Tags) -> None:
        """A file is this model, or (None) none of which something is said."""
        if model is None:
            self._db.execute("DELETE FROM tagged WHERE file = ?", (file,))
        else:
            self._db.execute("INSERT OR REPLACE INTO tagged VALUES (?, ?, ?)", (file, model, encode(said)))


def said_of(encoded: bytes | None) -> Tags:
    """What a row of `tagged` says."""
    try:
        return decode(encoded) if encoded else Tags()
    except msgspec.MsgspecError:
        return Tags()
