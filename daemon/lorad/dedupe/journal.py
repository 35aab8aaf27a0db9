"""The journal of all actions: what undo and repair go by. It has a file of its own.

The catalogue is a cache that may be thrown away and made anew; the journal is the only record of what a file was
that is gone. So it never shares the catalogue's fate: it is not replaced when it is damaged, and not made
anew where its token, quarantine or recipes tell that there was one.

What was committed survives a power cut, if the disk keeps what it said it had written: a rollback journal with
`synchronous = EXTRA` (sqlite.org/pragma.html#pragma_synchronous), and each change is a commit of its own. No
write-ahead log, as that is mapped into memory, and a full disk would be a SIGBUS.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from loracore.errors import StateError
from lorad.dedupe.attributes import Attributes
from lorad.dedupe.orders import Raw, Result, Savings, Side, spoken
from lorad.dedupe.reach import Folder

JOURNAL = "journal.sqlite"
#: Beside the journal: what it is worthless without, and the other way round.
RECIPES = "recipes"
QUARANTINE = "quarantine"
#: States that an action stays in; every other one is brought to one of these by repair.
FINAL = ("done", "failed", "undone", "emptied")
#: Beside the journal: its token, which tells that there was one, and which.
MARKER = "journal.token"

_MIGRATIONS = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    -- `body`: MessagePack of the whole entry; the other columns are what is asked for by.
    CREATE TABLE actions (
        id INTEGER PRIMARY KEY AUTOINCREMENT, action TEXT NOT NULL, state TEXT NOT NULL,
        kept BLOB NOT NULL, path BLOB NOT NULL, bytes INTEGER NOT NULL, body BLOB NOT NULL
    );
    CREATE INDEX by_state ON actions (state);
    CREATE INDEX by_kept ON actions (kept);
    CREATE INDEX by_path ON actions (path);
    """,
)


class Sidecar(msgspec.Struct, frozen=True):
    """A file that goes with the one that goes: its name, in the folder and in quarantine alike, and its inode."""

    name: bytes
    ino: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An action with all that repair and undo need.

    `state`: `planned` (names may be changed, nothing is lost), `removing` (the last name of the file that goes is
    about to be removed), `done`, `failed`, `undoing`, `undone`, `emptied` (it is in its quarantine no more).
    `attributes` and `digest` (BLAKE3-256 of all
    bytes) are those of the file that goes. `target` is what a symbolic link in its place says. `place` tells which
    quarantine it or its sidecars are in: `state`, `root` or none. `recipe`: there is one, and it is durable.
    `restored` is the inode of the copy that undo has made, 0 for none. `folder` is the one that the file that goes
    lay in, or that its undo has begun in: repair believes what it finds in no other. `stands` is the inode that
    stands in place of a hard link because a later action on that name was undone, 0 for none.
    """

    id: int = 0
    time_ns: int = 0
    action: str
    level: str
    state: str = "planned"
    text: str = ""
    bytes: int = 0
    kept: Side
    gone: Side
    attributes: Attributes
    digest: Raw = b""
    target: Raw = b""
    place: str = ""
    recipe: bool = False
    sidecars: tuple[Sidecar, ...] = ()
    restored: int = 0
    folder: Folder = Folder()
    stands: int = 0

    def result(self, text: str | None = None) -> Result:
        return Result(
            id=self.id,
            action=self.action,
            kept=self.kept.path,
            path=self.gone.path,
            bytes=self.bytes,
            state=self.state,
            text=self.text if text is None else spoken(text),
            time_ns=self.time_ns,
            level=self.level,
        )


_decode = msgspec.msgpack.Decoder(Entry).decode
_encode = msgspec.msgpack.Encoder().encode


class Journal:
    """The one connection that writes; or one of any number that read (`writing=False`)."""

    def __init__(self, state_dir: str, *, writing: bool = True) -> None:
        """Open the journal in the state folder, or make it.

        Raises StateError: it is damaged, written by a later lorad, missing where there should be one, or the
        folder cannot be used.
        """
        self.path = os.path.join(state_dir, JOURNAL)
        try:
            self._refuse_loss(state_dir)
            # Not "ro": what a process left that died within a commit is to be rolled back by whoever comes next.
            mode = "rwc" if writing else "rw"
            self._db = sqlite3.connect(
                f"file:{_quoted(self.path)}?mode={mode}", uri=True, isolation_level=None, timeout=10
            )
            if writing:
                os.chmod(self.path, 0o600)
            self._open(writing=writing)
            self._refuse_stranger(state_dir)
            if writing:
                self._mark(state_dir)
        except sqlite3.OperationalError as error:
            raise StateError(f"{self.path}: {error}; make room or give lorad's user the right to it") from error
        except sqlite3.DatabaseError as error:
            raise StateError(f"{self.path}: it is damaged ({error}); put a backup of it in its place") from error
        except OSError as error:
            raise StateError(
                f"{self.path}: {(error.strerror or str(error)).lower()}; give another --state-dir"
            ) from error

    @staticmethod
    def was_made(state_dir: str) -> bool:
        """Whether there is a journal in the state folder, or should be."""
        return any(os.path.exists(os.path.join(state_dir, name)) for name in (JOURNAL, MARKER))

    @staticmethod
    def is_torn(state_dir: str) -> bool:
        """Whether a process that writes it is within a commit, or died in one."""
        return os.path.exists(os.path.join(state_dir, f"{JOURNAL}-journal"))

    def _refuse_loss(self, state_dir: str) -> None:
        """Raises StateError where there was a journal and is none: a new one would orphan what undo needs."""
        if os.path.exists(self.path) and os.path.getsize(self.path):
            return
        for folder in (RECIPES, QUARANTINE):
            beside = os.path.join(state_dir, folder)
            if os.path.isdir(beside) and os.listdir(beside):
                raise StateError(
                    f"{self.path}: it is missing or empty, but {beside} is not; put a backup of the journal in "
                    "its place, or move that folder away"
                )
        if token := _token(state_dir):
            raise StateError(
                f"{self.path}: it is missing or empty, but there was one ({token}); put a backup in its place, "
                f"or remove {MARKER} beside it to give up what could be undone, and quarantines in the roots"
            )

    def _refuse_stranger(self, state_dir: str) -> None:
        """Raises StateError where another journal lies in the place of the one that was made here."""
        token = _token(state_dir)
        if token and token != self.token:
            self._db.close()
            raise StateError(
                f"{self.path}: it is another journal ({self.token}) than the one made here ({token}); put "
                f"a backup of that one in its place, or remove {MARKER} beside it to go on with this one"
            )

    def _mark(self, state_dir: str) -> None:
        """Tell beside the journal, durably, that there is one."""
        if not _token(state_dir):
            path = os.path.join(state_dir, MARKER)
            with open(f"{path}.new", "w", encoding="ascii") as file:
                file.write(f"{self.token}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{path}.new", path)
        sync_folder(state_dir)

    def _open(self, *, writing: bool) -> None:
        db = self._db
        ours = ("journal_mode = DELETE", "synchronous = EXTRA", "mmap_size = 0")
        for pragma in ours if writing else ("query_only = ON",):
            db.execute(f"PRAGMA {pragma}")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > len(_MIGRATIONS):
            raise StateError(
                f"{self.path}: a later lorad wrote it (version {version}, this one knows {len(_MIGRATIONS)}); "
                "install that one again"
            )
        if writing:
            (sound,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if sound != "ok":
                raise sqlite3.DatabaseError(sound)
            for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
                db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
            db.execute("INSERT OR IGNORE INTO meta VALUES ('token', ?)", (secrets.token_hex(4),))
        row = db.execute("SELECT value FROM meta WHERE key = 'token'").fetchone()
        if row is None:
            raise sqlite3.DatabaseError("it has no token")
        #: In all names that this journal's actions give, so that no other journal's are taken for its own.
        self.token = str(row[0])

    def plan(self, entry: Entry) -> Entry:
        """Write down an action that is about to begin; returns it with its id and time."""
        now = time.time_ns()
        with _transaction(self._db):
            cursor = self._db.execute(
                "INSERT INTO actions (action, state, kept, path, bytes, body) VALUES ('', '', '', '', 0, '')"
            )
            assert cursor.lastrowid is not None
            entry = _spoken(msgspec.structs.replace(entry, id=cursor.lastrowid, time_ns=now))
            self._write(entry)
        return entry

    def update(self, entry: Entry, **changes: Any) -> Entry:
        """Write down what has changed of an action; it is durable when this returns."""
        entry = _spoken(msgspec.structs.replace(entry, **changes))
        with _transaction(self._db):
            self._write(entry)
        return entry

    def _write(self, entry: Entry) -> None:
        self._db.execute(
            "UPDATE actions SET action = ?, state = ?, kept = ?, path = ?, bytes = ?, body = ? WHERE id = ?",
            (entry.action, entry.state, entry.kept.path, entry.gone.path, entry.bytes, _encode(entry), entry.id),
        )

    def get(self, number: int) -> Entry | None:
        row = self._db.execute("SELECT body FROM actions WHERE id = ?", (number,)).fetchone()
        return _decode(row[0]) if row else None

    def unfinished(self) -> list[Entry]:
        """Those that were interrupted, oldest first."""
        marks = ", ".join("?" * len(FINAL))
        rows = self._db.execute(f"SELECT body FROM actions WHERE state NOT IN ({marks}) ORDER BY id", FINAL)
        return [_decode(body) for (body,) in rows]

    def history(self, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Actions with a larger id than `after`, oldest first."""
        rows = self._db.execute("SELECT body FROM actions WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
        return [_decode(body) for (body,) in rows]

    def leading_to(self, path: bytes) -> list[Entry]:
        """Symbolic links to `path` that actions have made and that were not undone."""
        rows = self._db.execute(
            "SELECT body FROM actions WHERE kept = ? AND action = 'symlink' AND state IN ('done', 'undoing')",
            (path,),
        )
        return [_decode(body) for (body,) in rows]

    def made_from(self, path: bytes) -> Iterator[Entry]:
        """Actions that stand and whose undo needs the bytes of `path`, their kept file or what that went for."""
        waiting, seen = [path], set()
        while waiting:
            rows = self._db.execute(
                "SELECT body FROM actions WHERE kept = ? AND action IN ('symlink', 'delete', 'quarantine')"
                " AND state IN ('done', 'undoing')",
                (waiting.pop(),),
            ).fetchall()
            for entry in map(_decode, (body for (body,) in rows)):
                if entry.action != "quarantine":
                    yield entry
                elif entry.level == "file" and entry.id not in seen:
                    # It is not made from the kept file itself, but what was made from it is: see `gone_for`.
                    seen.add(entry.id)
                    waiting.append(entry.gone.path)

    def gone_for(self, path: bytes, after: int) -> Entry | None:
        """The newest action later than `after` that stands and has let `path` go for a file of the same bytes."""
        rows = self._db.execute(
            "SELECT body FROM actions WHERE path = ? AND id > ? AND state = 'done'"
            " AND action IN ('symlink', 'delete', 'quarantine') ORDER BY id DESC LIMIT 1",
            (path, after),
        ).fetchall()
        return next((entry for (body,) in rows if (entry := _decode(body)).level == "file"), None)

    def undone(self) -> Iterator[Entry]:
        """The newest action on each name, where that was undone or is about to be."""
        rows = self._db.execute(
            "SELECT body FROM actions WHERE state IN ('undone', 'undoing')"
            " AND id IN (SELECT max(id) FROM actions GROUP BY path)"
        )
        return (_decode(body) for (body,) in rows)

    def last_of(self, path: bytes) -> Entry | None:
        """The newest action on a file of this name."""
        row = self._db.execute(
            "SELECT body FROM actions WHERE path = ? ORDER BY id DESC LIMIT 1", (path,)
        ).fetchone()
        return _decode(row[0]) if row else None

    def standing_at(self, path: bytes, after: int) -> int | None:
        """The newest action later than `after` that stands on this name; None where there is none."""
        (number,) = self._db.execute(
            "SELECT max(id) FROM actions WHERE path = ? AND id > ? AND state = 'done'", (path, after)
        ).fetchone()
        return None if number is None else int(number)

    def restored_at(self, path: bytes, after: int) -> set[int]:
        """The inodes that undoing actions with larger ids than `after` has put at this name."""
        rows = self._db.execute(
            "SELECT body FROM actions WHERE path = ? AND id > ? AND state = 'undone'", (path, after)
        )
        return {_decode(body).restored for (body,) in rows} - {0}

    def standing(self) -> list[int]:
        """The ids of all actions that are done and can be undone, the newest first."""
        return [
            number
            for (number,) in self._db.execute("SELECT id FROM actions WHERE state = 'done' ORDER BY id DESC")
        ]

    def saved_by_action(self) -> dict[str, int]:
        """Bytes of what is done, by action."""
        rows = self._db.execute("SELECT action, sum(bytes) FROM actions WHERE state = 'done' GROUP BY action")
        return dict(rows.fetchall())

    def needs_recipe(self, number: int) -> bool:
        """Whether the recipe of this id is still wanted."""
        entry = self.get(number)
        return entry is not None and entry.state not in ("failed", "undone")

    def savings(self) -> Savings:
        actions, saved, held = self._db.execute(
            "SELECT count(*), coalesce(sum(iif(action = 'quarantine', 0, bytes)), 0),"
            " coalesce(sum(iif(action = 'quarantine', bytes, 0)), 0) FROM actions WHERE state = 'done'"
        ).fetchone()
        return Savings(actions, saved, held)

    def close(self) -> None:
        self._db.close()


def _spoken(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, text=spoken(entry.text))


class _transaction:  # noqa: N801 - a context, used as a word
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            try:
                self._db.execute("COMMIT")
            except sqlite3.Error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        elif self._db.in_transaction:
            self._db.execute("ROLLBACK")


def _token(state_dir: str) -> str:
    """That of the journal that was made in this folder; empty where none was."""
    try:
        with open(os.path.join(state_dir, MARKER), encoding="ascii", errors="replace") as file:
            return file.read(100).strip()
    except FileNotFoundError:
        return ""


def _quoted(path: str) -> str:
    from urllib.parse import quote  # noqa: PLC0415 - for names with ? and % alone

    return quote(os.fsencode(path))


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
