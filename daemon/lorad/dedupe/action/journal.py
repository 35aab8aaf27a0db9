"""The journal of all actions, which undo and repair go by: what is written down, and what is asked of it."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from lorad.dedupe.action.entry import UNFINISHED, Entry, hidden_name, old_temp
from lorad.dedupe.action.journal_file import JournalFile, decode, write
from lorad.dedupe.action.order import HELD, STANDING, Savings

_SAVED = ("freed", "linked", "shared")


class Journal(JournalFile):
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
                planned.append(write(self._db, named))
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
            return [write(self._db, entry) for entry in entries]

    @property
    def clock(self) -> float:
        """Seconds that lorad has run, as far as they were written down: what a grace is counted in."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'clock'").fetchone()
        return float(row[0]) if row else 0.0

    def set_clock(self, seconds: float) -> None:
        with _transaction(self._db):
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('clock', ?)", (repr(seconds),))

    def get(self, number: int) -> Entry | None:
        return next(iter(self._entries("id = ?", (number,))), None)

    def recipe(self, number: int) -> bytes | None:
        row = self._db.execute("SELECT body FROM recipes WHERE id = ?", (number,)).fetchone()
        return row[0] if row else None

    def unfinished(self) -> list[Entry]:
        """Those that were interrupted, oldest first."""
        return self.in_state(*UNFINISHED)

    def in_state(self, *states: str) -> list[Entry]:
        """All actions in one of these states, oldest first."""
        return self._entries(f"state IN ({', '.join('?' * len(states))})", states)

    def history(self, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Actions with a larger id than `after`, oldest first."""
        return self._entries("id > ?", (after,), limit)

    def links_to(self, path: bytes) -> list[Entry]:
        """Actions in force that have put a symbolic link to `path` somewhere."""
        return self._entries(f"kept = ? AND action = 'symlink' AND state IN {STANDING}", (path,))

    def _entries(self, where: str, values: Sequence[object], limit: int = -1) -> list[Entry]:
        query = f"SELECT body FROM actions WHERE {where} ORDER BY id LIMIT ?"
        return [decode(body) for (body,) in self._db.execute(query, (*values, limit))]

    def later_at(self, path: bytes, after: int) -> int | None:
        """The newest action later than `after` that is in force on this name; None where there is none."""
        query = f"SELECT max(id) FROM actions WHERE path = ? AND id > ? AND state IN {STANDING}"
        (number,) = self._db.execute(query, (path, after)).fetchone()
        return None if number is None else int(number)

    def standing(self) -> list[int]:
        """The ids of all actions that can be undone, the newest first."""
        rows = self._db.execute(f"SELECT id FROM actions WHERE state IN {STANDING} ORDER BY id DESC")
        return [number for (number,) in rows]

    def savings(self) -> Savings:
        rows = self._db.execute(
            "SELECT action, state, count(*), sum(bytes) FROM actions"
            f" WHERE state IN {(*HELD, *_SAVED)} GROUP BY action, state"
        ).fetchall()
        saved: dict[str, int] = {}
        for action, state, _, size in rows:
            if state in _SAVED:
                saved[action] = saved.get(action, 0) + size
        held = sum(size for _, state, _, size in rows if state in HELD)
        return Savings(sum(count for _, _, count, _ in rows), sum(saved.values()), held, saved)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


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
