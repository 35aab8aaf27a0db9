"""What was edited, and what undo needs of it: a small database in the user's state folder.

Of each file it keeps the whole old header, packed, and a digest of the new one; no data. A row is there,
durably, before anything is made beside the file; it says `begun` until the file is in place, and names the
hidden file for as long as that may be there. One process at a time writes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from blake3 import blake3

from loracore.causes import explained
from loracore.errors import StateError, UsageError
from loracore.paths import default_state_dir
from loracore.time import now_text
from lorakit.jobs.edit.data import sync_folder
from lorakit.jobs.edit.writing import Order, Written

_VERSION = 1
#: Seconds that a reader of the journal waits for a commit.
_PATIENCE = 30.0
_SCHEMA = """
CREATE TABLE edits (id INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL);
CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    edit INTEGER NOT NULL REFERENCES edits (id),
    path BLOB NOT NULL,
    state TEXT NOT NULL,
    hidden BLOB,
    old BLOB NOT NULL,
    old_size INTEGER NOT NULL,
    old_mtime_ns INTEGER NOT NULL,
    new BLOB NOT NULL,
    new_size INTEGER NOT NULL,
    new_mtime_ns INTEGER,
    undoes INTEGER REFERENCES files (number)
);
CREATE INDEX files_of_edits ON files (edit);
CREATE INDEX files_hidden ON files (number) WHERE hidden IS NOT NULL;
"""
_COLUMNS = "number, edit, path, state, hidden, old, old_size, old_mtime_ns, new, new_size, new_mtime_ns, undoes"


@dataclass(frozen=True)
class Row:
    """A file of an edit. `state`: begun, done, undone, or dropped: not changed. `undoes`: the row taken back.

    `old`: the header of before, packed; `new`: BLAKE3 of the one that was written. `new_mtime_ns`: None until it
    is known.
    """

    number: int
    edit: int
    path: bytes
    state: str
    hidden: bytes | None
    old: bytes
    old_size: int
    old_mtime_ns: int
    new: bytes
    new_size: int
    new_mtime_ns: int | None
    undoes: int | None

    @property
    def old_header(self) -> bytes:
        """Raises StateError where the journal is damaged."""
        try:
            return zlib.decompress(self.old)
        except zlib.error as error:
            raise StateError(f"the journal of edits is damaged at {self.number}: {error}") from error


def folder() -> str:
    """Where the journal is: the state folder of a service, else of the user. Raises UsageError."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return os.path.join(given or default_state_dir(), "edits")


def digest(header: bytes) -> bytes:
    return blake3(header).digest()


class Journal:
    """Open for writing, by this process alone."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._edit: int | None = None

    @property
    def edit(self) -> int | None:
        """The number of the edit that was begun here."""
        return self._edit

    def begin(self, orders: Sequence[tuple[Order, bytes, int | None]], dropped: Sequence[int] = ()) -> list[int]:
        """Note what is about to be written: order, hidden name, the row that it undoes; the numbers of their rows.

        `dropped`: rows of before, as in `note_dropped`.
        """
        with self._durably() as write:
            if self._edit is None:
                self._edit = write.execute("INSERT INTO edits (time) VALUES (?)", (now_text(),)).lastrowid
            _forget_hidden(write, dropped)
            return [self._begin(write, *each) for each in orders]

    def _begin(self, write: sqlite3.Connection, order: Order, hidden: bytes, undoes: int | None) -> int:
        old, before = order.header.raw, order.identity
        cursor = write.execute(
            "INSERT INTO files (edit, path, state, hidden, old, old_size, old_mtime_ns, new, new_size, undoes)"
            " VALUES (?, ?, 'begun', ?, ?, ?, ?, ?, ?, ?)",
            (
                self._edit, order.path, hidden, zlib.compress(old, 6), before.size, before.mtime_ns,
                digest(order.raw), order.size, undoes,
            ),
        )  # fmt: skip
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def finish(self, done: Iterable[tuple[int, Written]]) -> None:
        """These files are in place, and their old ones are about to be removed."""
        with self._durably() as write:
            for number, written in done:
                _done(write, number, written.identity.mtime_ns)

    def settle(self, row: Row, *, done: bool, mtime_ns: int | None) -> None:
        """How a file was found; nothing of it has the hidden name."""
        with self._durably() as write:
            if row.state == "begun" and done:
                _done(write, row.number, mtime_ns)
            elif row.state == "begun":
                write.execute("UPDATE files SET state = 'dropped' WHERE number = ?", (row.number,))
            _forget_hidden(write, [row.number])

    def note_dropped(self, numbers: Sequence[int]) -> None:
        """The hidden files of these rows are removed."""
        with self._durably() as write:
            _forget_hidden(write, numbers)

    def row(self, number: int) -> Row:
        with self._reading() as read:
            return Row(*read.execute(f"SELECT {_COLUMNS} FROM files WHERE number = ?", (number,)).fetchone())

    def unsettled(self) -> list[int]:
        """Rows that were begun, and those whose old file may still be hidden; oldest first."""
        return [number for number, _ in self._numbers("hidden IS NOT NULL ORDER BY number")]

    def to_undo(self, edit: int) -> list[tuple[int, bytes]]:
        """Row and path of the files of an edit, newest first. Raises UsageError where there is no such edit."""
        wanted = "edit = ? AND undoes IS NULL AND state IN ('done', 'undone')"
        rows = self._numbers(f"{wanted} ORDER BY number DESC", edit)
        if not rows:
            raise UsageError(f"there is no edit {edit}; `loractl edit --history` lists them")
        return rows

    def _numbers(self, where: str, *values: int) -> list[tuple[int, bytes]]:
        """Without the headers, which may be many."""
        with self._reading() as read:
            return read.execute(f"SELECT number, path FROM files WHERE {where}", values).fetchall()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection
        except sqlite3.Error as error:
            _fail(self._path, error)

    @contextmanager
    def _durably(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._connection:
                yield self._connection
        except sqlite3.Error as error:
            _fail(self._path, error)


def _forget_hidden(write: sqlite3.Connection, numbers: Sequence[int]) -> None:
    write.executemany("UPDATE files SET hidden = NULL WHERE number = ?", [(number,) for number in numbers])


def _done(write: sqlite3.Connection, number: int, mtime_ns: int | None) -> None:
    write.execute("UPDATE files SET state = 'done', new_mtime_ns = ? WHERE number = ?", (mtime_ns, number))
    write.execute(
        "UPDATE files SET state = 'undone' WHERE number = (SELECT undoes FROM files WHERE number = ?)", (number,)
    )


@contextmanager
def writing() -> Iterator[Journal]:
    """The journal, made if it is not there; waits until no other process has it. Raises StateError, UsageError."""
    place = folder()
    path = os.path.join(place, "edits.sqlite")
    try:
        _make_folder(place)
        lock = os.open(os.path.join(place, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{place}: the journal of edits cannot be kept: {explained(error, place)}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise StateError(f"{place}: the journal of edits cannot be locked: {explained(error)}") from error
        connection = _opened(path, make=True)
        try:
            yield Journal(connection, path)
        finally:
            connection.close()
    finally:
        os.close(lock)


def listed() -> list[tuple[int, str, bytes, str]]:
    """Edit, time, path and state of each file that was edited, oldest first; nothing is made or changed."""
    path = os.path.join(folder(), "edits.sqlite")
    if not os.path.exists(path):
        return []
    connection = _opened(path, make=False)
    try:
        if _version(connection, path) == 0:
            return []
        rows = connection.execute(
            "SELECT edit, time, path, state FROM files JOIN edits ON edits.id = edit"
            " WHERE state != 'dropped' AND undoes IS NULL ORDER BY number"
        )
        return [tuple(row) for row in rows]
    except sqlite3.Error as error:
        _fail(path, error)
    finally:
        connection.close()


def _make_folder(place: str) -> None:
    """With those above it, durably: without it after a power cut, nothing could be undone. Raises OSError."""
    above = os.path.dirname(place)
    if os.path.isdir(place):
        return
    if not os.path.isdir(above):
        _make_folder(above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(place, 0o700)
    fd = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_folder(fd)
    finally:
        os.close(fd)


def _opened(path: str, *, make: bool) -> sqlite3.Connection:
    """`make`: with its tables, if it has none yet."""
    connection = None
    try:
        connection = sqlite3.connect(
            f"file:{_quoted(path)}?mode={'rwc' if make else 'rw'}", uri=True, timeout=_PATIENCE
        )
        # EXTRA: also the removal of SQLite's own journal is durable, so no power cut takes a commit back.
        connection.execute("PRAGMA synchronous = EXTRA")
        if _version(connection, path) == 0 and make:
            connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {_VERSION};COMMIT;")
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            _fail(path, error)
        raise
    return connection


def _version(connection: sqlite3.Connection, path: str) -> int:
    """0 for one that is being made. Raises StateError."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, _VERSION):
        raise StateError(f"{path}: this journal of edits is of a newer lorad; update this one")
    return int(version)


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _fail(path: str, error: sqlite3.Error) -> NoReturn:
    raise StateError(f"{path}: the journal of edits cannot be used: {explained(error, path)}") from error
