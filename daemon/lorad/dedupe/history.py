"""What the journal says was done, for questions that change nothing: each opens it anew.

From any thread. All that is asked raises StateError where the journal cannot be read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from loracore.control import HistoryEntry, Savings
from loracore.errors import StateError
from lorad.dedupe.action.journal import Entry, Journal


class PastActions:
    """The actions in the journal of a state folder; none where nothing was ever done."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir

    def history(self, after: int, most: int) -> list[HistoryEntry]:
        """Up to `most` actions whose ids are above `after`, by id."""
        with self._journal() as journal:
            entries = journal.history(after, most) if journal else []
        return [
            HistoryEntry(
                entry.id,
                rfc3339(entry.time_ns / 1e9),
                entry.action,
                entry.kept.path,
                entry.gone.path,
                entry.bytes,
                entry.state,
            )
            for entry in entries
        ]

    def savings(self, possible_bytes: int) -> Savings:
        """What is in force has saved; `possible_bytes` is what could be."""
        with self._journal() as journal:
            if journal is None:
                return Savings(0, possible_bytes, 0, {}, 0)
            sums, by_action = journal.savings(), journal.saved_by_action()
        return Savings(sums.saved, possible_bytes, sums.held, by_action, sums.actions)

    def entries(self, ids: Sequence[int] | None) -> dict[int, Entry | None]:
        """These actions, or all that can be undone (None), the newest first; None for an id that there is not."""
        with self._journal() as journal:
            if journal is None:
                return dict.fromkeys(sorted(set(ids or ()), reverse=True))
            numbers = journal.standing() if ids is None else sorted(set(ids), reverse=True)
            return {number: journal.get(number) for number in numbers}

    def in_state(self, *states: str) -> list[Entry]:
        """All actions in one of these states, oldest first."""
        with self._journal() as journal:
            return journal.in_state(*states) if journal else []

    def token(self) -> str:
        """The journal's token; empty where there is no journal."""
        with self._journal() as journal:
            return journal.token if journal else ""

    def clock(self) -> float:
        """Seconds that lorad has run, as far as they were written down."""
        with self._journal() as journal:
            return journal.clock if journal else 0.0

    def is_unfinished(self) -> bool:
        """Whether there is something to repair, or to take over from an earlier version.

        Also where the journal does not tell, since it was torn itself.
        """
        if Journal.is_torn(self._state_dir):
            return True
        try:
            with self._journal() as journal:
                return journal is not None and (journal.is_old or bool(journal.unfinished()))
        except StateError:
            return True

    @contextmanager
    def _journal(self) -> Iterator[Journal | None]:
        if not Journal.was_made(self._state_dir):
            yield None
            return
        journal = Journal(self._state_dir, writing=False)
        try:
            yield journal
        except sqlite3.Error as error:
            raise StateError(f"{journal.path}: {error}; try again") from error
        finally:
            journal.close()


def rfc3339(seconds: float) -> str:
    """A time of day in seconds since the epoch, in UTC; empty where it cannot be written so."""
    try:
        text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return ""
    return text.replace("+00:00", "Z")
