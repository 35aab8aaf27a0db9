"""Hidden files that are not where they were hidden: their folder was moved, or they were removed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

from loracore.control import ActionRefused
from loracore.errors import LoraError
from loracore.identity import Identity
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.hidden import find, is_lost, shown_at
from lorad.dedupe.action.order import Result
from lorad.dedupe.dispatch import Dispatch
from lorad.dedupe.process import GiveBack, Note
from lorad.dedupe.roots import Roots
from lorad.watch import calls
from lorad.watch.scanner import HIDDEN


class Moved:
    """For the thread of `dispatch`."""

    def __init__(self, dispatch: Dispatch, roots: Roots) -> None:
        self._dispatch = dispatch
        self._roots = roots

    def find(self, entries: Iterable[Entry]) -> None:
        """Look for those that are not where they were hidden."""
        missing = {entry.id for entry in entries if not calls.may_be_there(self._dispatch.aside_of(entry))}
        if missing:
            self.look_for(missing)

    def look_for(self, wanted: Iterable[int]) -> None:
        """Look in all roots for these, and write down where they lie now, or that they are lost."""
        history = self._dispatch.history
        entries = {number: entry for number, entry in history.entries(list(wanted)).items() if entry is not None}
        found, unusable = find(self._roots.paths, history.token(), entries)
        for number, entry in entries.items():
            path = found.get(number)
            if path is not None:
                self._note_found(entry, path)
            elif shown_at(entry.gone.path, entry.gone.identity.ino):
                # It was given back while the journal could not be written.
                self._dispatch.attempt(GiveBack([number]))
            elif entry.state != "lost" and not unusable.get(number) and is_lost(entry):
                why = "it was removed from where it was put aside"
                if worked(self._dispatch.attempt(Note(number, "lost", why))):
                    self._dispatch.tell(ActionRefused("give back", entry.kept.path, entry.gone.path, why))

    def _note_found(self, entry: Entry, path: bytes) -> None:
        folder, hidden = os.path.split(path)
        match = HIDDEN.fullmatch(hidden) if hidden != entry.aside else None
        name = os.path.join(folder, match["name"] if match else os.path.basename(entry.gone.path))
        state = "hidden" if entry.state == "lost" else entry.state
        with suppress(LoraError, OSError):
            side = self._roots.side(name, Identity.of(os.lstat(path)))
            self._dispatch.attempt(Note(entry.id, state, "", side, hidden))


def worked(results: Sequence[Result]) -> bool:
    """Whether anything was done of what was asked for."""
    return any(result.state != "refused" for result in results)
