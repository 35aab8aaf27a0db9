"""The tables by what is written to them, on the writer's connection: each class writes one, or two of a kind.

Reading is here too where only the writer needs it; what other processes and threads read is in `views`.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar
from zlib import decompress

import msgspec

from loracore.identity import Identity, signed
from loracore.tensorfile import Layout
from lorad.catalog.views import holding, sequences, signatures
from lorad.library import Question

#: Signatures whose numbers are kept at hand, of each kind.
_REMEMBERED = 4096
_T = TypeVar("_T")


class Row(NamedTuple):
    """One inode in one state, as the table `files` holds it."""

    id: int
    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    read_ns: int
    status: str
    layout: int | None
    arrangement: int | None
    base: int | None
    format: str | None
    residue: bytes | None
    signature: bytes | None
    load_seconds: float
    error: str | None
    deaths: int
    passed_over: int
    extents: bytes | None = None
    function: bytes | None = None
    weights: bytes | None = None
    was: bytes | None = None
    fresh: int = 0
    born: int | None = None
    metadata: int | None = None


#: A row of the table `names`: path, file, active (0 out of view, 1 in view, 2 hidden), what its config says.
NameRow = tuple[bytes, int, int, bytes | None]


class Answer(NamedTuple):
    """A file's answer to a question: the digests of its pieces, and the key that stands for them."""

    file: int
    number: int
    key: bytes
    digests: bytes


class Lost(NamedTuple):
    """What a name led to and does not any more. `layout`: its number, None if not known; `weights`: empty then."""

    path: bytes
    identity: Identity
    born: int | None
    layout: int | None
    weights: bytes


class HeldInode(NamedTuple):
    """A row of the table `held_inodes`: what the inode of a number was, and signatures, empty if not known."""

    dev: int
    born: int | None
    size: int
    mtime_ns: int
    layout: bytes
    weights: bytes


class FileTable:
    """`files`. They are dropped by `Catalog.drop_files`, with all that was learnt from them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def rows(self) -> Iterator[Row]:
        return map(Row._make, self._db.execute("SELECT * FROM files"))

    def row(self, file: int) -> Row | None:
        row = self._db.execute("SELECT * FROM files WHERE id = ?", (file,)).fetchone()
        return Row._make(row) if row else None

    def save(self, rows: Iterable[Row]) -> None:
        marks = ", ".join("?" * len(Row._fields))
        self._db.executemany(f"INSERT OR REPLACE INTO files VALUES ({marks})", rows)


class NameTable:
    """`names`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def rows(self) -> Iterator[NameRow]:
        return self._db.execute("SELECT path, file, active, config FROM names")

    def sleeping(self, layout: bytes, weights: bytes) -> dict[bytes, int]:
        """Names out of view of files with these weights, by signatures, and the device that each was on."""
        return {path: identity.dev for path, identity in holding(self._db, layout, weights, active=0)}

    def save(self, names: Iterable[NameRow]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)", names)

    def set_active(self, active: int, paths: Iterable[bytes]) -> None:
        """Say whether paths lie under a folder that is looked at now."""
        self._db.executemany(f"UPDATE names SET active = {active} WHERE path = ?", ((path,) for path in paths))

    def drop(self, paths: Iterable[bytes]) -> None:
        self._db.executemany("DELETE FROM names WHERE path = ?", ((path,) for path in paths))


class AnswerTable:
    """`answers`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def keys(self) -> dict[int, dict[int, bytes]]:
        """For each file, the keys of all its answers by question number."""
        keys: dict[int, dict[int, bytes]] = defaultdict(dict)
        for file, number, key in self._db.execute("SELECT file, number, key FROM answers"):
            keys[file][number] = key
        return keys

    def of(self, file: int) -> dict[int, bytes]:
        """All digests that a file gave, by question number."""
        return dict(self._db.execute("SELECT number, digests FROM answers WHERE file = ?", (file,)))

    def save(self, answers: Iterable[Answer]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", answers)

    def share(self, source: int, file: int, number: int) -> None:
        """Give `file` the answer that `source` gave: they agree on every layer."""
        self._db.execute(
            "INSERT OR REPLACE INTO answers SELECT ?, number, key, digests FROM answers "
            "WHERE file = ? AND number = ?",
            (file, source, number),
        )


class Interned(Generic[_T]):
    """A table of what many files have in common, each under a number and a signature: layouts, or arrangements."""

    def __init__(self, db: sqlite3.Connection, kind: str, decode: Callable[[bytes], _T]) -> None:
        """`kind` is the column of `files` that has the number."""
        self._db = db
        self._kind = kind
        self._table = f"{kind}s"
        self._decode = decode
        self._numbers: OrderedDict[bytes, int] = OrderedDict()

    def number(self, signature: bytes, encoded: bytes | None = None) -> int | None:
        """The number of a signature, new if its (compressed) encoding is given; None if it is unknown."""
        number = self._numbers.pop(signature, None)
        if number is None:
            query = f"SELECT id FROM {self._table} WHERE signature = ?"
            row = self._db.execute(query, (signature,)).fetchone()
            if row is None and encoded is None:
                return None
            if row is None:
                query = f"INSERT INTO {self._table} (signature, encoded) VALUES (?, ?) RETURNING id"
                row = self._db.execute(query, (signature, encoded)).fetchone()
            number = int(row[0])
        self._numbers[signature] = number
        if len(self._numbers) > _REMEMBERED:
            self._numbers.popitem(last=False)
        return number

    def get(self, number: int) -> _T:
        query = f"SELECT encoded FROM {self._table} WHERE id = ?"
        (encoded,) = self._db.execute(query, (number,)).fetchone()
        return self._decode(decompress(encoded))

    def forget_unused(self) -> None:
        """Drop those that no saved file has; see `Catalog.forget_unused`."""
        self._db.execute(
            f"DELETE FROM {self._table} WHERE id NOT IN "
            f"(SELECT {self._kind} FROM files WHERE {self._kind} IS NOT NULL)"
        )
        self._numbers.clear()


class LayoutTable(Interned[Layout]):
    """`layouts`, with the questions that were asked of the files of each."""

    def __init__(self, db: sqlite3.Connection) -> None:
        super().__init__(db, "layout", Layout.decode)

    def signature(self, layout: int) -> bytes:
        (signature,) = self._db.execute("SELECT signature FROM layouts WHERE id = ?", (layout,)).fetchone()
        return bytes(signature)

    def signatures(self) -> dict[int, bytes]:
        """Those of all layouts."""
        return signatures(self._db)

    def sequences(self) -> Iterator[tuple[int, tuple[Question, ...], bool]]:
        """(layout, questions, exhausted) of every group that ever asked one."""
        return sequences(self._db)

    def save_sequence(self, layout: int, sequence: Sequence[Question], exhausted: bool) -> None:
        encoded = msgspec.msgpack.encode(sequence)
        self._db.execute(
            "UPDATE layouts SET sequence = ?, exhausted = ? WHERE id = ?", (encoded, exhausted, layout)
        )


class HeldTables:
    """`held_names` and `held_inodes`: what names, and inodes, led to before."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def at(self, path: bytes) -> list[tuple[bytes, bytes]]:
        """The signatures of layout and weights that a name held, empty if not known, the newest first."""
        query = "SELECT layout, weights FROM held_names WHERE path = ? ORDER BY seq DESC"
        return self._db.execute(query, (path,)).fetchall()

    def by(self, ino: int) -> list[HeldInode]:
        """What inodes of this number held, on any device, the newest first."""
        query = f"SELECT {', '.join(HeldInode._fields)} FROM held_inodes WHERE ino = ? ORDER BY seq DESC"
        rows = map(HeldInode._make, self._db.execute(query, (signed(ino),)))
        return [row._replace(dev=row.dev % 2**64) for row in rows]

    def save(self, lost: Sequence[Lost]) -> None:
        """Keep what names and their inodes held."""
        signature = "coalesce((SELECT signature FROM layouts WHERE id = ?), x'')"
        self._db.executemany(
            f"INSERT OR REPLACE INTO held_names (path, layout, weights) VALUES (?, {signature}, ?)",
            ((row.path, row.layout, row.weights) for row in lost),
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO held_inodes (dev, ino, size, mtime_ns, born, layout, weights) "
            f"VALUES (?, ?, ?, ?, ?, {signature}, ?)",
            map(_inode, lost),
        )

    def forget_inode(self, identity: Identity) -> None:
        """Its number may be given to another file. Names keep what they held."""
        stored = signed(identity.ino), signed(identity.dev)
        self._db.execute("DELETE FROM held_inodes WHERE ino = ? AND dev = ?", stored)

    def bound(self, most: int) -> int:
        """Drop the oldest of what names, and what inodes held, until there are no more than so many of each.

        How many there are in all.
        """
        left = 0
        for table in ("held_names", "held_inodes"):
            (count,) = self._db.execute(f"SELECT count(*) FROM {table}").fetchone()
            self._db.execute(
                f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} ORDER BY seq LIMIT ?)",
                (max(0, count - most),),
            )
            left += min(int(count), most)
        return left


def _inode(row: Lost) -> tuple[int | bytes | None, ...]:
    dev, ino, size, mtime_ns, _ = row.identity.stored()
    return dev, ino, size, mtime_ns, row.born, row.layout, row.weights
