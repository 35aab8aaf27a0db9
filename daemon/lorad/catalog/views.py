"""Reading the catalogue, on a connection that cannot write: names in view, and what is known of their files.

Not here: identity hashes (`hashes`), looking something up by its hash (`search`), and the sets that names make up
(`copies`).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from zlib import decompress

import msgspec

from loracore.identity import Identity
from loracore.paths import CATALOGUE
from loracore.tensorfile import Layout
from lorad import state_folder
from lorad.catalog.globs import any_like, is_like
from lorad.library import Question
from lorad.library.keepers import Rules
from lorad.watch.storage import Storage

#: Statuses of files whose layout is known.
TOLD = ("grouped", "unique", "duplicate")
#: Of a name and its file: it is in view, and the layout is known.
IS_TOLD = f"active = 1 AND status IN {TOLD}"
COLUMNS = (
    "path, file, dev, size, mtime_ns, layout, status, load_seconds, error, signature, residue, extents, metadata, "
    "function, config"
)
IN_VIEW = "FROM names JOIN files ON files.id = names.file WHERE active = 1"
_NAMES = f"SELECT {COLUMNS}, 0, 0 {IN_VIEW}"
_IDENTITY = "dev, ino, size, mtime_ns, ctime_ns"
_IDENTIFIED = f"SELECT path, {_IDENTITY} FROM names JOIN files ON files.id = names.file WHERE active = ?"
_SEQUENCE = msgspec.msgpack.Decoder(tuple[Question, ...])


class Name(NamedTuple):
    """One name of a file, with what is known of the file. The last two are 0 in a snapshot."""

    path: bytes
    file: int
    dev: int
    size: int
    mtime_ns: int
    layout: int | None
    status: str
    load_seconds: float
    error: str | None
    signature: bytes | None
    residue: bytes | None
    extents: bytes | None
    metadata: int | None
    function: bytes | None
    config: bytes | None
    ino: int
    ctime_ns: int

    @property
    def identity(self) -> Identity:
        return Identity.of_stored(self.dev, self.ino, self.size, self.mtime_ns, self.ctime_ns)


class Known(NamedTuple):
    """What is known of one name: its inode's identity, and why it is not read if it is not."""

    identity: Identity
    passed_over: str | None


class Format(NamedTuple):
    """How a file holds its layers: the name of the format, and its layout with the signature of that."""

    name: str | None
    signature: bytes
    layout: Layout


class Terms(msgspec.Struct, frozen=True):
    """All that it depends on which file of a set is kept, beside the files. `follow`: names may be links."""

    rules: Rules = Rules()
    storage: Storage = Storage()
    follow: bool = False

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)


_TERMS = msgspec.msgpack.Decoder(Terms)
#: Under this name the catalogue keeps the terms that its present generation goes by.
TERMS = "terms"


class Head(NamedTuple):
    """The generation, and whether all was told apart in it."""

    generation: int
    complete: bool


class Snapshot(NamedTuple):
    """Names in view, sorted by path; each layout's signature; what stages cost; the generation.

    `names` are all names, or those of the paths that were asked for.
    """

    generation: int
    complete: bool
    names: list[Name]
    layouts: dict[int, bytes]
    stages: dict[str, dict[str, float]]
    terms: Terms


def connect(state_dir: str) -> sqlite3.Connection:
    """A connection that cannot write."""
    db = state_folder.connect(os.path.join(state_dir, CATALOGUE), "ro")
    for function in (any_like, is_like):
        db.create_function(function.__name__, 2, function, deterministic=True)
    return db


class Reader:
    """A connection that cannot write, opened when it is first used, and again after `close`. For one thread."""

    def __init__(self, state_dir: str, *, cache: int = 2 << 20) -> None:
        """`cache`: bytes of the catalogue that are kept at hand, at most."""
        self._state_dir = state_dir
        self._cache = cache
        self._connection: sqlite3.Connection | None = None

    @property
    def db(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._state_dir)
            self._connection.execute(f"PRAGMA cache_size = -{self._cache >> 10}")
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def one_generation(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction, so that all that is read in it is of one generation."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("COMMIT")


def value(db: sqlite3.Connection, key: str) -> Any:
    """What is kept under a name; None if there is nothing."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def read_head(db: sqlite3.Connection) -> Head:
    return Head(int(value(db, "generation") or 0), bool(value(db, "complete")))


def read_terms(db: sqlite3.Connection) -> Terms:
    """The terms that the present generation goes by."""
    encoded = value(db, TERMS)
    return Terms() if encoded is None else _TERMS.decode(encoded)


def read_snapshot(db: sqlite3.Connection, paths: Iterable[bytes] | None = None) -> Snapshot:
    """All names, or those of `paths` that are in view."""
    with one_generation(db):
        if paths is None:
            names = list(map(Name._make, db.execute(f"{_NAMES} ORDER BY path")))
            layouts = signatures(db)
        else:
            query = f"{_NAMES} AND path = ?"
            names = [Name._make(row) for path in sorted(set(paths)) for row in db.execute(query, (path,))]
            layouts = signatures(db, {name.layout for name in names if name.layout is not None})
        stages = msgspec.json.decode(value(db, "statistics") or b"{}")
        return Snapshot(*read_head(db), names, layouts, stages, read_terms(db))


def signatures(db: sqlite3.Connection, layouts: Iterable[int] | None = None) -> dict[int, bytes]:
    """Those of all layouts, or of these."""
    query = "SELECT id, signature FROM layouts"
    if layouts is None:
        return dict(db.execute(query))
    return dict(row for layout in layouts for row in db.execute(f"{query} WHERE id = ?", (layout,)))


def sequences(db: sqlite3.Connection) -> Iterator[tuple[int, tuple[Question, ...], bool]]:
    """(layout, questions, exhausted) of every layout whose files were ever asked one."""
    query = "SELECT id, sequence, exhausted FROM layouts WHERE sequence IS NOT NULL"
    for layout, sequence, exhausted in db.execute(query):
        yield layout, _SEQUENCE.decode(sequence), bool(exhausted)


def file_at(db: sqlite3.Connection, path: bytes) -> int | None:
    """The number of the file that a name in view leads to."""
    row = db.execute("SELECT file FROM names WHERE active = 1 AND path = ?", (path,)).fetchone()
    return row[0] if row else None


def names_of(db: sqlite3.Connection, file: int) -> list[bytes]:
    """The names of a file that are in view, sorted."""
    rows = db.execute("SELECT path FROM names WHERE file = ? AND active = 1 ORDER BY path", (file,))
    return [path for (path,) in rows]


def names_under(db: sqlite3.Connection, folders: Iterable[bytes]) -> list[bytes]:
    """All names in view in these folders, at any depth."""
    query = "SELECT path FROM names WHERE active = 1 AND path > ? AND path < ?"
    ranges = ((folder + b"/", folder + b"0") for folder in folders)
    return [path for between in ranges for (path,) in db.execute(query, between)]


def names_by_layout(db: sqlite3.Connection) -> Iterator[tuple[bytes, bytes]]:
    """(signature of the layout, path) of all names in view whose layout is known, sorted."""
    return db.execute(
        "SELECT layouts.signature, path FROM names JOIN files ON files.id = names.file "
        f"JOIN layouts ON layouts.id = files.layout WHERE {IS_TOLD} "
        "ORDER BY layouts.signature, path"
    )


def names_failed(db: sqlite3.Connection) -> Iterator[tuple[bytes, str]]:
    """(path, why) of names in view that cannot be read, sorted."""
    query = f"SELECT path, coalesce(error, '') {IN_VIEW} AND status = 'failed' ORDER BY path"
    return db.execute(query)


def names_known(db: sqlite3.Connection) -> dict[bytes, Known]:
    """All names in view."""
    rows = db.execute(f"SELECT path, passed_over, error, {_IDENTITY} {IN_VIEW}")
    return {
        path: Known(Identity.of_stored(*stored), error if passed_over else None)
        for path, passed_over, error, *stored in rows
    }


def weights_at(db: sqlite3.Connection, paths: Iterable[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
    """The signatures of the layout and the weights that names in view lead to, of those that are known."""
    query = (
        "SELECT layouts.signature, files.weights FROM names JOIN files ON files.id = names.file "
        "JOIN layouts ON layouts.id = files.layout WHERE active = 1 AND path = ? AND files.weights IS NOT NULL"
    )
    found = ((path, db.execute(query, (path,)).fetchone()) for path in paths)
    return {path: (bytes(row[0]), bytes(row[1])) for path, row in found if row is not None}


def holding(
    db: sqlite3.Connection, layout: bytes, weights: bytes, *, active: int = 1
) -> list[tuple[bytes, Identity]]:
    """Names (in view, or with `active` 0 out of it) that lead to these weights, by the signatures of both."""
    # Such that it begins with the weights, which few files have, and not with the layout.
    signature = "SELECT signature FROM layouts WHERE id = layout"
    query = f"{_IDENTIFIED} AND weights = ? AND ({signature}) = ? ORDER BY path"
    return _identified(db.execute(query, (active, weights, layout)))


def of_layout(db: sqlite3.Connection, layout: bytes, most: int) -> list[tuple[bytes, Identity]]:
    """Some names in view of a layout whose weights are not known: they may hold any."""
    layouts = "SELECT id FROM layouts WHERE signature = ?"
    query = f"{_IDENTIFIED} AND layout = ({layouts}) AND weights IS NULL ORDER BY files.id DESC LIMIT ?"
    return _identified(db.execute(query, (1, layout, most)))


def _identified(rows: Iterable[tuple[Any, ...]]) -> list[tuple[bytes, Identity]]:
    return [(path, Identity.of_stored(*stored)) for path, *stored in rows]


def format_of(db: sqlite3.Connection, file: int) -> Format | None:
    """How a file holds its layers; None where its layout is not known."""
    columns, join = "format, layouts.signature, encoded", "layouts ON layouts.id = files.layout"
    query = f"SELECT {columns} FROM files JOIN {join} WHERE files.id = ?"
    row = db.execute(query, (file,)).fetchone()
    return Format(row[0], row[1], Layout.decode(decompress(row[2]))) if row else None
