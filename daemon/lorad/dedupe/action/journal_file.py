"""The journal's file: how it is opened and made, brought to this version, and never replaced by another.

The catalogue is a cache that may be thrown away and made anew; the journal is the only record of what a file was
that is gone. So it never shares the catalogue's fate: it is not replaced when it is damaged, and not made
anew where its token, quarantine or recipes say that there was one.

What was committed survives a power cut, if the disk keeps what it said it had written: a rollback journal with
`synchronous = EXTRA` (sqlite.org/pragma.html#pragma_synchronous), and each change is a commit of its own. No
write-ahead log, as that is mapped into memory, and a full disk would be a SIGBUS.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import suppress

import msgspec

from loracore.causes import explained
from loracore.errors import StateError
from loracore.whole import regular
from lorad.dedupe.action.entry import Entry, hidden_name, old_temp
from lorad.dedupe.action.order import HELD, spoken
from lorad.dedupe.action.place import sync
from lorad.state_folder import connect

JOURNAL = "journal.sqlite"
#: Beside the journal: what it is worthless without, and the other way round.
RECIPES = "recipes"
QUARANTINE = "quarantine"
#: Beside the journal: its token, which says that there was one, and which.
MARKER = "journal.token"
#: States in which nothing is made from a recipe.
_WITHOUT_RECIPE = ("refused", "undone", "given_back", *HELD)

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
    # What a freed file is made from: see `recipe`.
    "CREATE TABLE recipes (id INTEGER PRIMARY KEY, body BLOB NOT NULL);",
)
#: The first version in which what goes is put aside before it is removed.
_HIDING = 2


decode = msgspec.msgpack.Decoder(Entry).decode
_encode = msgspec.msgpack.Encoder().encode


class JournalFile:
    """The one connection that writes; or one of any number that read (`writing=False`)."""

    def __init__(self, state_dir: str, *, writing: bool = True) -> None:
        """Open the journal in the state folder, or make it.

        Raises StateError: it is damaged, written by a later lorad, missing where there should be one, or the
        folder cannot be used.
        """
        self.path = os.path.join(state_dir, JOURNAL)
        try:
            self._refuse_loss(state_dir)
            # Not "ro": a commit that a process died in is rolled back by the next one that opens the file.
            self._db = connect(self.path, "rwc" if writing else "rw", timeout=10.0)
            if writing:
                os.chmod(self.path, 0o600)
            self._open(writing=writing)
            self._inode = os.stat(self.path).st_ino
            self._refuse_stranger(state_dir)
            if writing:
                self._mark(state_dir)
        except sqlite3.OperationalError as error:
            raise StateError(f"{self.path}: {explained(error, self.path)}") from error
        except sqlite3.DatabaseError as error:
            raise StateError(f"{self.path}: it is damaged ({error}); put a backup of it in its place") from error
        except OSError as error:
            raise StateError(f"{self.path}: {explained(error, self.path)}") from error

    @staticmethod
    def was_made(state_dir: str) -> bool:
        """Whether there is a journal in the state folder, or should be."""
        if os.path.exists(os.path.join(state_dir, MARKER)):
            return True
        try:
            with open(os.path.join(state_dir, JOURNAL), "rb", opener=regular) as file:
                # An SQLite database without a version is one that was cut short while it was made.
                return len(head := file.read(64)) == 64 and head[60:] != b"\0" * 4
        except FileNotFoundError:
            return False
        except OSError:
            # Something else stands in its place, which who opens it is told.
            return True

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
            with suppress(FileNotFoundError):
                os.unlink(f"{path}.new")
            with open(f"{path}.new", "x", encoding="ascii") as file:
                file.write(f"{self.token}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{path}.new", path)
        sync(state_dir)

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
        #: Whether it is of an earlier version: only an actor takes it over.
        self.is_old = version < len(_MIGRATIONS)
        if writing:
            (sound,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if sound != "ok":
                raise sqlite3.DatabaseError(sound)
            for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
                db.executescript(f"BEGIN IMMEDIATE; {script}")
                db.execute("INSERT OR IGNORE INTO meta VALUES ('token', ?)", (secrets.token_hex(4),))
                if number == _HIDING:
                    _take_over(db, _token_in(db))
                db.execute(f"PRAGMA user_version = {number}")
                db.execute("COMMIT")
        #: In all names that this journal's actions give, so that no other journal's are taken for its own.
        self.token = _token_in(db)

    def in_place(self) -> bool:
        """Whether the path still leads to the file that is written: its disk may have been taken away."""
        try:
            return os.stat(self.path).st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        self._db.close()


def _take_over(db: sqlite3.Connection, token: str) -> None:
    """Entries of earlier versions, which removed at once: SPEC section 5, "States of an action"."""
    for (body,) in db.execute("SELECT body FROM actions").fetchall():
        entry = decode(body)
        action = entry.kind
        done = action.state if action.quarantines else action.final
        states = {"done": done, "failed": "refused", "emptied": "lost", "removing": "freeing"}
        aside = hidden_name(os.path.basename(entry.gone.path), token, entry.id)
        if action.quarantines or entry.state in ("planned", "removing"):
            aside = old_temp(token, entry.id)
        write(
            db,
            msgspec.structs.replace(
                entry,
                state=states.get(entry.state, entry.state),
                before=done if entry.state == "undoing" else "hidden",
                aside=aside,
                targets=(entry.target,) if entry.target else (),
                function=b"",
                config=b"",
            ),
        )


def write(db: sqlite3.Connection, entry: Entry) -> Entry:
    """Write an entry in the place of its former one."""
    entry = msgspec.structs.replace(entry, text=spoken(entry.text))
    db.execute(
        "UPDATE actions SET action = ?, state = ?, kept = ?, path = ?, bytes = ?, body = ? WHERE id = ?",
        (entry.action, entry.state, entry.kept.path, entry.gone.path, entry.bytes, _encode(entry), entry.id),
    )
    if entry.state in _WITHOUT_RECIPE:
        db.execute("DELETE FROM recipes WHERE id = ?", (entry.id,))
    return entry


def _token_in(db: sqlite3.Connection) -> str:
    row = db.execute("SELECT value FROM meta WHERE key = 'token'").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("it has no token")
    return str(row[0])


def _token(state_dir: str) -> str:
    """That of the journal that was made in this folder; empty where none was."""
    try:
        with open(os.path.join(state_dir, MARKER), encoding="ascii", errors="replace", opener=regular) as file:
            token = file.read(100).strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StateError(f"{os.path.join(state_dir, MARKER)}: {explained(error)}") from error
    return token if token.isalnum() or not token else "damaged"
