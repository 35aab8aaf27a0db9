"""Reading and writing the catalogue. One transaction is open at a time and committed in batches.

Commits are atomic whatever is killed. After a power cut the newest commits may be missing (WAL without a
sync on each commit): what they held is then read from the files again.
"""

from __future__ import annotations

import os
import sqlite3
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple
from zlib import decompress

import msgspec

from loracore.errors import StateError
from loracore.paths import CATALOGUE
from loracore.tensorfile import Arrangement, Layout
from loracore.whole import regular
from lorad import state_folder
from lorad.catalog.identity import Identified
from lorad.catalog.schema import migrate
from lorad.library import Question

_SEQUENCE = msgspec.msgpack.Decoder(tuple[Question, ...])


#: Bytes of SQLite's header, which is written first.
_HEAD = 100
#: Bytes that the write-ahead log keeps after it was larger.
_JOURNAL = 16 << 20
#: Signatures whose numbers are kept at hand.
_REMEMBERED = 4096


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


class Answer(NamedTuple):
    """A file's answer to a question: the digests of its pieces, and the key that stands for them."""

    file: int
    number: int
    key: bytes
    digests: bytes


class Lost(NamedTuple):
    """What a name led to and does not any more. `layout`: its number, None if not known; `weights`: empty then."""

    path: bytes
    dev: int
    ino: int
    born: int | None
    size: int
    mtime_ns: int
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


class Catalog:
    """The one writer's connection."""

    def __init__(self, folder: str) -> None:
        """Open or make the catalogue in `folder`.

        Raises StateError when it is damaged or too new, and sqlite3.OperationalError when there is no room or
        permission to work on it.
        """
        self.path = os.path.join(folder, CATALOGUE)
        _remove_half_made(self.path)
        try:
            self._db = state_folder.connect(self.path, "rwc", cached_statements=64)
            for pragma in (
                "journal_mode = WAL",
                "synchronous = NORMAL",
                "cache_size = -16384",
                "mmap_size = 0",
                f"journal_size_limit = {_JOURNAL}",
            ):
                self._db.execute(f"PRAGMA {pragma}")
            migrate(self._db)
            self._db.execute("BEGIN")
            self.generation = self.number("generation")
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise StateError(f"{self.path}: {error}; move it away to start afresh") from error
        self._numbers: OrderedDict[bytes, int] = OrderedDict()
        self._dropped = False

    def number(self, key: str) -> int:
        """A number kept under a name; 0 if it was never set."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return int(row[0]) if row else 0

    def text(self, key: str) -> bytes:
        """Bytes kept under a name; empty if there are none."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return bytes(row[0]) if row else b""

    def keep(self, key: str, value: str | int | bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def commit(self, *, new_generation: bool) -> None:
        """End the open transaction and begin the next; a new generation when views would differ."""
        if new_generation:
            self.generation += 1
            self.keep("generation", self.generation)
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")

    def forget_unused(self) -> None:
        """Drop layouts and arrangements that no file has any more, in the open transaction.

        Their numbers may be given to others then. Files that are not saved yet must not have one.
        """
        if not self._dropped:
            return
        for table, column in (("layouts", "layout"), ("arrangements", "arrangement")):
            self._db.execute(
                f"DELETE FROM {table} WHERE id NOT IN (SELECT {column} FROM files WHERE {column} IS NOT NULL)"
            )
        self._numbers.clear()
        self._dropped = False

    def abandon(self) -> None:
        """Close without what is not committed: the disk would not take it."""
        with suppress(sqlite3.Error):
            self._db.rollback()
        with suppress(sqlite3.Error):
            self._db.close()

    def close(self) -> None:
        self._db.execute("COMMIT")
        self._db.close()

    def rows(self) -> Iterator[Row]:
        return map(Row._make, self._db.execute("SELECT * FROM files"))

    def row(self, file: int) -> Row | None:
        row = self._db.execute("SELECT * FROM files WHERE id = ?", (file,)).fetchone()
        return Row._make(row) if row else None

    def names(self) -> Iterator[tuple[bytes, int, int, bytes | None]]:
        """All (path, file, active, config), see `save_names`; `active` is 0 out of view."""
        return self._db.execute("SELECT path, file, active, config FROM names")

    def answer_keys(self) -> dict[int, dict[int, bytes]]:
        """For each file, the keys of all its answers by question number."""
        keys: dict[int, dict[int, bytes]] = defaultdict(dict)
        for file, number, key in self._db.execute("SELECT file, number, key FROM answers"):
            keys[file][number] = key
        return keys

    def sequences(self) -> Iterator[tuple[int, tuple[Question, ...], bool]]:
        """(layout, questions, exhausted) of every group that ever asked one."""
        query = "SELECT id, sequence, exhausted FROM layouts WHERE sequence IS NOT NULL"
        for layout, sequence, exhausted in self._db.execute(query):
            yield layout, _SEQUENCE.decode(sequence), bool(exhausted)

    def save_files(self, rows: Iterable[Row]) -> None:
        marks = ", ".join("?" * len(Row._fields))
        self._db.executemany(f"INSERT OR REPLACE INTO files VALUES ({marks})", rows)

    def save_names(self, names: Iterable[tuple[bytes, int, int, bytes | None]]) -> None:
        """Keep (path, file, active, config) of names; `active` is 1 in view, 2 for one that is hidden."""
        self._db.executemany("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)", names)

    def set_active(self, active: int, paths: Iterable[bytes]) -> None:
        """Say whether paths lie under a folder that is looked at now."""
        self._db.executemany(f"UPDATE names SET active = {active} WHERE path = ?", ((path,) for path in paths))

    def drop_names(self, paths: Iterable[bytes]) -> None:
        self._db.executemany("DELETE FROM names WHERE path = ?", ((path,) for path in paths))

    def drop_files(self, files: Iterable[int]) -> None:
        """Forget files with all that was learnt from them."""
        files = list(files)
        self._dropped |= bool(files)
        for table, column in (("files", "id"), ("names", "file"), ("answers", "file"), ("hashes", "file")):
            self._db.executemany(f"DELETE FROM {table} WHERE {column} = ?", ((file,) for file in files))

    def save_answers(self, answers: Iterable[Answer]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", answers)

    def save_hashes(self, file: int, found: Identified) -> None:
        """Keep the identity hashes of a file, or why it has none."""
        columns = ", ".join(("file", *Identified._fields))
        marks = ", ".join("?" * (1 + len(Identified._fields)))
        self._db.execute(f"INSERT OR REPLACE INTO hashes ({columns}) VALUES ({marks})", (file, *found))

    def held_at(self, path: bytes) -> list[tuple[bytes, bytes]]:
        """The signatures of layout and weights that a name held, empty if not known, the newest first."""
        query = "SELECT layout, weights FROM held_names WHERE path = ? ORDER BY seq DESC"
        return self._db.execute(query, (path,)).fetchall()

    def held_by(self, ino: int) -> list[HeldInode]:
        """What inodes of this number held, on any device, the newest first."""
        query = f"SELECT {', '.join(HeldInode._fields)} FROM held_inodes WHERE ino = ? ORDER BY seq DESC"
        return list(map(HeldInode._make, self._db.execute(query, (ino,))))

    def save_held(self, lost: Sequence[Lost]) -> None:
        """Keep what names and their inodes held."""
        signature = "coalesce((SELECT signature FROM layouts WHERE id = ?), x'')"
        self._db.executemany(
            f"INSERT OR REPLACE INTO held_names (path, layout, weights) VALUES (?, {signature}, ?)",
            ((row.path, row.layout, row.weights) for row in lost),
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO held_inodes (dev, ino, born, size, mtime_ns, layout, weights) "
            f"VALUES (?, ?, ?, ?, ?, {signature}, ?)",
            (row[1:] for row in lost),
        )

    def forget_inode(self, dev: int, ino: int) -> None:
        """Its number may be given to another file. Names keep what they held."""
        self._db.execute("DELETE FROM held_inodes WHERE ino = ? AND dev = ?", (ino, dev))

    def bound_held(self, most: int) -> int:
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

    def sleeping(self, layout: bytes, weights: bytes) -> dict[bytes, int]:
        """Names out of view of files with these weights, by signatures, and the device that each was on."""
        query = (
            "SELECT path, dev FROM files JOIN layouts ON layouts.id = layout JOIN names ON names.file = files.id "
            "WHERE weights = ? AND layouts.signature = ? AND active = 0"
        )
        return {path: dev % 2**64 for path, dev in self._db.execute(query, (weights, layout))}

    def share_answer(self, source: int, file: int, number: int) -> None:
        """Give `file` the answer that `source` gave: they agree on every layer."""
        self._db.execute(
            "INSERT OR REPLACE INTO answers SELECT ?, number, key, digests FROM answers "
            "WHERE file = ? AND number = ?",
            (file, source, number),
        )

    def save_sequence(self, layout: int, sequence: Sequence[Question], exhausted: bool) -> None:
        encoded = msgspec.msgpack.encode(sequence)
        self._db.execute(
            "UPDATE layouts SET sequence = ?, exhausted = ? WHERE id = ?", (encoded, exhausted, layout)
        )

    def answers(self, file: int) -> dict[int, bytes]:
        """All digests that a file gave, by question number."""
        return dict(self._db.execute("SELECT number, digests FROM answers WHERE file = ?", (file,)))

    def layout_id(self, signature: bytes, encoded: bytes | None = None) -> int | None:
        """The number of a layout, new if its (compressed) encoding is given; None if it is unknown."""
        return self._intern("layouts", signature, encoded)

    def arrangement_id(self, signature: bytes, encoded: bytes | None = None) -> int | None:
        """The same for an arrangement."""
        return self._intern("arrangements", signature, encoded)

    def layout(self, layout: int) -> Layout:
        (encoded,) = self._db.execute("SELECT encoded FROM layouts WHERE id = ?", (layout,)).fetchone()
        return Layout.decode(decompress(encoded))

    def layout_signature(self, layout: int) -> bytes:
        (signature,) = self._db.execute("SELECT signature FROM layouts WHERE id = ?", (layout,)).fetchone()
        return bytes(signature)

    def layout_signatures(self) -> dict[int, bytes]:
        """All layouts' signatures."""
        return dict(self._db.execute("SELECT id, signature FROM layouts"))

    def arrangement(self, arrangement: int) -> Arrangement:
        row = self._db.execute("SELECT encoded FROM arrangements WHERE id = ?", (arrangement,)).fetchone()
        return Arrangement.decode(decompress(row[0]))

    def _intern(self, table: str, signature: bytes, encoded: bytes | None) -> int | None:
        number = self._numbers.pop(signature, None)
        if number is None:
            row = self._db.execute(f"SELECT id FROM {table} WHERE signature = ?", (signature,)).fetchone()
            if row is None and encoded is None:
                return None
            if row is None:
                query = f"INSERT INTO {table} (signature, encoded) VALUES (?, ?) RETURNING id"
                row = self._db.execute(query, (signature, encoded)).fetchone()
            number = int(row[0])
        self._numbers[signature] = number
        if len(self._numbers) > _REMEMBERED:
            self._numbers.popitem(last=False)
        return number


def _remove_half_made(path: str) -> None:
    """Remove what is left of a catalogue whose making was cut short, as by a power cut: it holds nothing."""
    if os.path.exists(f"{path}-wal"):
        return
    with suppress(OSError):
        with open(path, "rb", opener=regular) as file:
            head = file.read(_HEAD)
        if len(head) < _HEAD or not head.strip(b"\0"):
            os.unlink(path)
