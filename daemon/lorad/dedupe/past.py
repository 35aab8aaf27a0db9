"""What the journal says was done, for those who ask and do not act: each question opens it anew.

From any thread. All that is asked raises StateError where the journal cannot be read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from loracore.control import HistoryEntry, Savings
from loracore.errors import StateError
from lorad.dedupe.guard import same
from lorad.dedupe.journal import Entry, Journal
from lorad.dedupe.plan import Step
from lorad.library.keepers import Copy
from lorad.pipeline.protocol import Identity


class Past:
    """The actions in the journal of a state folder; none where nothing was ever done."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir

    def history(self, after: int, most: int) -> list[HistoryEntry]:
        """Up to `most` actions whose ids are above `after`, by id."""
        with self._journal() as journal:
            entries = journal.history(after, most) if journal else []
        return [_history_entry(entry) for entry in entries]

    def savings(self, possible_bytes: int) -> Savings:
        """What stands has saved; `possible_bytes` is what could be."""
        with self._journal() as journal:
            if journal is None:
                return Savings(0, possible_bytes, 0, {}, 0)
            sums, by_action = journal.savings(), journal.saved_by_action()
        return Savings(sums.saved, possible_bytes, sums.quarantined, by_action, sums.actions)

    def entries(self, ids: Sequence[int] | None) -> dict[int, Entry | None]:
        """These actions, or all that stand (None), the newest first; None for an id that there is not."""
        with self._journal() as journal:
            if journal is None:
                return dict.fromkeys(sorted(set(ids or ()), reverse=True))
            numbers = journal.standing() if ids is None else sorted(set(ids), reverse=True)
            return {number: journal.get(number) for number in numbers}

    def put_back(self, copies: Mapping[tuple[int, int], Copy]) -> set[tuple[int, int]]:
        """Which of these files (by device and inode) are there because an action on them was undone.

        They are known by name or inode, and by their size: they may have been renamed, or touched, since.
        """
        with self._journal() as journal:
            brought = {place for entry in journal.undone() for place in _places(entry)} if journal else set()
        return {
            inode
            for inode, copy in copies.items()
            if not brought.isdisjoint((place, copy.size) for place in (copy.ino, *copy.paths))
        }

    def action_of(self, step: Step) -> int | None:
        """The id of the action that took this very step already."""
        with self._journal() as journal:
            entry = journal.last_of(step.path) if journal else None
        planned = Identity(*step.gone[1:6])
        if entry is not None and entry.state == "done" and same(entry.gone.identity, planned, renamed=True):
            return entry.id
        return None

    def is_unfinished(self) -> bool:
        """Whether there is something to repair; also where the journal does not tell, since it was torn itself."""
        if Journal.is_torn(self._state_dir):
            return True
        try:
            with self._journal() as journal:
                return journal is not None and bool(journal.unfinished())
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


def _places(entry: Entry) -> Iterator[tuple[bytes | int, int]]:
    """Where what the undo of an action brought back may be, by name or inode, and its size."""
    was = entry.gone.identity
    yield entry.gone.path, was.size
    # Where a new file was made, the number of the old one may be that of any other by now.
    yield entry.restored or was.ino, was.size


def _history_entry(entry: Entry) -> HistoryEntry:
    time_text = datetime.fromtimestamp(entry.time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    return HistoryEntry(
        entry.id,
        time_text.replace("+00:00", "Z"),
        entry.action,
        entry.kept.path,
        entry.gone.path,
        entry.bytes,
        entry.state,
    )
