"""What the journal says was done, and whether what its undo needs is there: for questions that change nothing.

Each question opens the journal anew, from any thread, and raises StateError where it cannot be read. What an undo
needs is looked at, not counted: what is put aside is to lie where it was put, and to be that file. What was freed
is made anew from its recipe, which the journal has, and any file of the same weights, of which one is to be
there.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from typing import NamedTuple

from loracore.control import HistoryEntry, Savings
from loracore.errors import StateError
from loracore.identity import Identity
from loracore.time import rfc3339
from lorad.catalog.views import connect, holding, of_layout
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.hidden import path_of
from lorad.dedupe.action.journal import Journal
from lorad.dedupe.action.journal_file import RECIPES
from lorad.dedupe.action.order import HELD
from lorad.library.keepers import is_inside


class ActionHistory:
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
            sums = journal.savings()
        return Savings(sums.saved, possible_bytes, sums.held, sums.by_action, sums.actions)

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


_SILENT = "its folder does not answer"
#: Files whose weights are not read yet that are looked at.
_OTHERS = 32
#: Whether a file of this layout and these weights is there.
_Held = Callable[[bytes, bytes], bool]


class Looked(NamedTuple):
    """An action in force. `lacks` says what of it is not there; empty where it can be undone. `path`: of that."""

    number: int
    path: bytes
    lacks: str


def look(state_dir: str, without: Collection[bytes] = ()) -> Iterator[Looked]:
    """All actions that can be undone, or should be: not those that are known as lost, which stand in the history.

    Nothing below `without` is looked at.

    Raises StateError and sqlite3.Error.
    """
    if not Journal.was_made(state_dir):
        return
    with closing(Journal(state_dir, writing=False)) as journal, closing(connect(state_dir)) as db:

        @cache
        def held(layout: bytes, weights: bytes) -> bool:
            known = [*holding(db, layout, weights), *of_layout(db, layout, _OTHERS)]
            return any(_is_there(path, identity) for path, identity in known if not _is_below(path, without))

        for entry in journal.in_state(*HELD):
            aside = path_of(state_dir, journal.token, entry)
            silent = _is_below(aside, without)
            yield Looked(entry.id, aside, _SILENT if silent else _why_not_shown(entry, aside))
        for entry in journal.in_state("freed", "linked"):
            yield Looked(entry.id, entry.gone.path, _why_not_made(entry, state_dir, held))
        for entry in journal.in_state("shared"):
            yield Looked(entry.id, entry.gone.path, "")


def _why_not_shown(entry: Entry, aside: bytes) -> str:
    what = f"what action {entry.id} has put aside"
    try:
        now = os.lstat(aside)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.isdir(os.path.dirname(aside)):
            return f"{what} is not there any more"
        return f"{what} is out of reach: its folder is not there; mount its disk"
    except OSError as error:
        return f"{what} cannot be looked at: {(error.strerror or str(error)).lower()}"
    is_it = stat.S_ISDIR(now.st_mode) if entry.unit else entry.gone.identity.lasts(Identity.of(now))
    return "" if is_it else f"{what} was changed or replaced"


def _why_not_made(entry: Entry, state_dir: str, held: _Held) -> str:
    if entry.recipe and not os.path.exists(os.path.join(state_dir, RECIPES, str(entry.id))):
        return f"the recipe that action {entry.id} would make its file from is not there; bring {RECIPES} back"
    if held(entry.layout, entry.weights) if entry.weights else os.path.lexists(entry.kept.path):
        return ""
    return f"no file is known that action {entry.id} could make its file from; bring one of the same weights back"


def _is_below(path: bytes, folders: Collection[bytes]) -> bool:
    return any(is_inside(path, folder) for folder in folders)


def _is_there(path: bytes, identity: Identity) -> bool:
    try:
        return identity.lasts(Identity.of(os.lstat(path)))
    except OSError:
        return False
