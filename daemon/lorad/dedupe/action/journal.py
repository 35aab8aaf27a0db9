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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from loracore.causes import explained
from loracore.errors import StateError
from loracore.whole import regular
from lorad.dedupe.action.attributes import Attributes
from lorad.dedupe.action.order import HELD, STANDING, Raw, Result, Savings, Side, spoken
from lorad.dedupe.action.place import NAME_BYTES, Folder, cut, sync
from lorad.dedupe.action.registry import ACTIONS, Action
from lorad.state_folder import connect

JOURNAL = "journal.sqlite"
#: Beside the journal: what it is worthless without, and the other way round.
RECIPES = "recipes"
QUARANTINE = "quarantine"
#: States that repair brings an action out of.
UNFINISHED = ("planned", "freeing", "undoing")
_IN_FORCE = _SAVED = ("freed", "linked", "shared")
#: States in which nothing is made from a recipe.
_WITHOUT_RECIPE = ("refused", "undone", "given_back", *HELD)
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
    # What a freed file is made from: see `recipe`.
    "CREATE TABLE recipes (id INTEGER PRIMARY KEY, body BLOB NOT NULL);",
)
#: The first version in which what goes is put aside before it is removed.
_HIDING = 2


class Sidecar(msgspec.Struct, frozen=True):
    """A file that is put aside with the one that goes: its name, and its inode."""

    name: bytes
    ino: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An action with all that repair, undo and giving back need.

    `state`: see SPEC section 5, and the unfinished ones: `planned` (names may be changed, nothing is lost),
    `freeing` (what was put aside is about to be removed), `undoing` (a freed file is made anew). `aside` is the
    name that the file has beside its own; `place` is where its quarantine is: `state`, `root` or none.
    `targets`: what a symbolic link of ours in its place says or said, the present one last; `link`: its inode, by
    which it is known where it was moved to (0: not noted). `layout` and `weights`
    are the signatures of what it holds, `function` and `config` what its header and the configuration beside it
    say of its function; all empty in entries of earlier versions. `attributes` are those of the file
    that goes. `rebuild`: there is a recipe in the journal. `digest` and `recipe` are those of earlier versions:
    BLAKE3-256 of the file, and whether there is a recipe file. `hidden_at`: seconds of `Journal.clock`. `restored`
    is the inode of the copy that an undo has made. `folder` is the one that the file lay in: repair believes what
    it finds in no other. `unit`: the whole folder went; `gone` is that folder then. `before`: the state before an
    unfinished one.
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
    targets: tuple[Raw, ...] = ()
    link: int = 0
    place: str = ""
    aside: Raw = b""
    recipe: bool = False
    rebuild: bool = False
    sidecars: tuple[Sidecar, ...] = ()
    restored: int = 0
    folder: Folder = Folder()
    unit: bool = False
    layout: Raw = b""
    weights: Raw = b""
    function: Raw | None = None
    config: Raw | None = None
    hidden_at: float = 0.0
    before: str = ""

    @property
    def kind(self) -> Action:
        return ACTIONS[self.action]

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
            layout=self.layout,
            weights=self.weights,
            hidden_at=self.hidden_at,
            unit=self.unit,
            function=self.function,
            config=self.config,
        )


class Context(NamedTuple):
    """What every step of an action needs. `at` is called with the name of each step, after it."""

    state_dir: str
    journal: Journal
    at: Callable[[str], None]

    def temp(self, entry: Entry) -> bytes:
        """The name of a copy that an undo makes, and of what is tried out. The walk passes over it."""
        name = old_temp(self.journal.token, entry.id)
        return name if name != entry.aside else name + b".new"

    def place(self, entry: Entry) -> bytes:
        """The name of this action's folder in quarantine."""
        return b"%s-%d" % (self.journal.token.encode(), entry.id)


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
                self._insert_token()
                if number == _HIDING:
                    self._take_over()
                db.execute(f"PRAGMA user_version = {number}")
                db.execute("COMMIT")
        row = db.execute("SELECT value FROM meta WHERE key = 'token'").fetchone()
        if row is None:
            raise sqlite3.DatabaseError("it has no token")
        #: In all names that this journal's actions give, so that no other journal's are taken for its own.
        self.token = str(row[0])

    def _insert_token(self) -> None:
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('token', ?)", (secrets.token_hex(4),))
        (self.token,) = self._db.execute("SELECT value FROM meta WHERE key = 'token'").fetchone()

    def _take_over(self) -> None:
        """Entries of earlier versions, which removed at once: SPEC section 5, "States of an action"."""
        for (body,) in self._db.execute("SELECT body FROM actions").fetchall():
            entry = _decode(body)
            action = entry.kind
            done = action.state if action.quarantines else action.final
            states = {"done": done, "failed": "refused", "emptied": "lost", "removing": "freeing"}
            aside = hidden_name(os.path.basename(entry.gone.path), self.token, entry.id)
            if action.quarantines or entry.state in ("planned", "removing"):
                aside = old_temp(self.token, entry.id)
            self._write(
                msgspec.structs.replace(
                    entry,
                    state=states.get(entry.state, entry.state),
                    before=done if entry.state == "undoing" else "hidden",
                    aside=aside,
                    targets=(entry.target,) if entry.target else (),
                    function=b"",
                    config=b"",
                )
            )

    def in_place(self) -> bool:
        """Whether the path still leads to the file that is written: its disk may have been taken away."""
        try:
            return os.stat(self.path).st_ino == self._inode
        except OSError:
            return False

    def plan(self, entries: Sequence[Entry]) -> list[Entry]:
        """Write down actions that are about to begin; returns them with their ids and time, durably."""
        now, planned = time.time_ns(), []
        with _transaction(self._db):
            for entry in entries:
                cursor = self._db.execute(
                    "INSERT INTO actions (action, state, kept, path, bytes, body) VALUES ('', '', '', '', 0, '')"
                )
                assert cursor.lastrowid is not None
                number = cursor.lastrowid
                aside = hidden_name(os.path.basename(entry.gone.path), self.token, number)
                named = msgspec.structs.replace(entry, id=number, time_ns=now, aside=aside)
                planned.append(self._write(named))
        return planned

    def update(self, entry: Entry, **changes: Any) -> Entry:
        """Write down what has changed of an action; it is durable when this returns."""
        return self.update_all([msgspec.structs.replace(entry, **changes)])[0]

    def update_all(self, entries: Sequence[Entry], recipes: Mapping[int, bytes] | None = None) -> list[Entry]:
        """Write all these down at once, and recipes by the ids of their actions."""
        if not entries:
            return []
        with _transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO recipes VALUES (?, ?)", (recipes or {}).items())
            return [self._write(entry) for entry in entries]

    def _write(self, entry: Entry) -> Entry:
        entry = msgspec.structs.replace(entry, text=spoken(entry.text))
        self._db.execute(
            "UPDATE actions SET action = ?, state = ?, kept = ?, path = ?, bytes = ?, body = ? WHERE id = ?",
            (entry.action, entry.state, entry.kept.path, entry.gone.path, entry.bytes, _encode(entry), entry.id),
        )
        if entry.state in _WITHOUT_RECIPE:
            self._db.execute("DELETE FROM recipes WHERE id = ?", (entry.id,))
        return entry

    @property
    def clock(self) -> float:
        """Seconds that lorad has run, as far as they were written down: what a grace is counted in."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'clock'").fetchone()
        return float(row[0]) if row else 0.0

    def set_clock(self, seconds: float) -> None:
        with _transaction(self._db):
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('clock', ?)", (repr(seconds),))

    def get(self, number: int) -> Entry | None:
        row = self._db.execute("SELECT body FROM actions WHERE id = ?", (number,)).fetchone()
        return _decode(row[0]) if row else None

    def recipe(self, number: int) -> bytes | None:
        row = self._db.execute("SELECT body FROM recipes WHERE id = ?", (number,)).fetchone()
        return row[0] if row else None

    def unfinished(self) -> list[Entry]:
        """Those that were interrupted, oldest first."""
        return self.in_state("planned", "freeing", "undoing")

    def in_state(self, *states: str) -> list[Entry]:
        """All actions in one of these states, oldest first."""
        marks = ", ".join("?" * len(states))
        rows = self._db.execute(f"SELECT body FROM actions WHERE state IN ({marks}) ORDER BY id", states)
        return [_decode(body) for (body,) in rows]

    def history(self, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Actions with a larger id than `after`, oldest first."""
        rows = self._db.execute("SELECT body FROM actions WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
        return [_decode(body) for (body,) in rows]

    def links_to(self, path: bytes) -> list[Entry]:
        """Actions in force that have put a symbolic link to `path` somewhere."""
        marks = ", ".join("?" * len(STANDING))
        query = (
            f"SELECT body FROM actions WHERE kept = ? AND action = 'symlink' AND state IN ({marks}) ORDER BY id"
        )
        return [_decode(body) for (body,) in self._db.execute(query, (path, *STANDING))]

    def later_at(self, path: bytes, after: int) -> int | None:
        """The newest action later than `after` that is in force on this name; None where there is none."""
        marks = ", ".join("?" * len(STANDING))
        query = f"SELECT max(id) FROM actions WHERE path = ? AND id > ? AND state IN ({marks})"
        (number,) = self._db.execute(query, (path, after, *STANDING)).fetchone()
        return None if number is None else int(number)

    def standing(self) -> list[int]:
        """The ids of all actions that can be undone, the newest first."""
        marks = ", ".join("?" * len(STANDING))
        rows = self._db.execute(f"SELECT id FROM actions WHERE state IN ({marks}) ORDER BY id DESC", STANDING)
        return [number for (number,) in rows]

    def saved_by_action(self) -> dict[str, int]:
        """Bytes that are saved, by action."""
        rows = self._db.execute(f"SELECT action, sum(bytes) FROM actions WHERE state IN {_SAVED} GROUP BY action")
        return dict(rows.fetchall())

    def savings(self) -> Savings:
        actions, saved, held = self._db.execute(
            f"SELECT count(*), coalesce(sum(iif(state IN {_SAVED}, bytes, 0)), 0),"
            f" coalesce(sum(iif(state IN {HELD}, bytes, 0)), 0) FROM actions WHERE state IN {(*HELD, *_IN_FORCE)}"
        ).fetchone()
        return Savings(actions, saved, held)

    def close(self) -> None:
        self._db.close()


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
        with open(os.path.join(state_dir, MARKER), encoding="ascii", errors="replace", opener=regular) as file:
            token = file.read(100).strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StateError(f"{os.path.join(state_dir, MARKER)}: {explained(error)}") from error
    return token if token.isalnum() or not token else "damaged"


def old_temp(token: str, number: int) -> bytes:
    """The name that a file had while an earlier version acted on it, and that copies still have."""
    return b".lorad-%s-%d.tmp" % (token.encode(), number)


def hidden_name(name: bytes, token: str, number: int) -> bytes:
    """`.NAME.aside-TOKEN-NUMBER`; a NAME too long for that is cut."""
    tail = b".aside-%s-%d" % (token.encode(), number)
    room = NAME_BYTES - 1 - len(tail)
    if len(name) > room:
        stem, ending = os.path.splitext(name)
        name = cut(stem, room - len(ending)) + ending if len(ending) < room else cut(name, room)
    return b"." + name + tail
