"""Giving hidden files back, and undoing actions: by a rename, or by making anew what was freed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from loracore.control import ActionRefused, ActionUndone, FileGivenBack, Outcome, Refusal, Undone
from loracore.errors import LoraError, StateError
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.order import HELD, Result
from lorad.dedupe.action.registry import ACTIONS
from lorad.dedupe.action.undo import bring_back
from lorad.dedupe.apply import GROUP, counted
from lorad.dedupe.candidates import Keepers, kept_for
from lorad.dedupe.dispatch import DIED, Dispatch, why_silent
from lorad.dedupe.process import GiveBack, Undo
from lorad.dedupe.roots import Moved, Roots
from lorad.dedupe.standing import Standing


class GivingBack:
    """For the thread of `dispatch`."""

    def __init__(self, dispatch: Dispatch, roots: Roots, moved: Moved) -> None:
        self._dispatch = dispatch
        self._roots = roots
        self._moved = moved
        #: Why each file could not be given back when that was last said: it is tried again and again.
        self._said: dict[int, str] = {}

    def refuse(self, wanted: Sequence[Standing], reason: str) -> None:
        self._dispatch.put(_refused(one, reason) for one in wanted)

    def give_back(self, wanted: Sequence[Standing], *, by_names: bool) -> None:
        """Show again what these have hidden. `by_names`: at once by their names, whatever the journal says."""
        entries: dict[int, Entry | None] = {}
        with suppress(StateError):
            if not by_names:
                entries = self._dispatch.history.entries([one.id for one in wanted if one.id > 0])
        known = []
        for one in wanted:
            entry = entries.get(one.id)
            reason = why_silent(one.aside)
            if entry is None and ACTIONS[one.action].quarantines:
                reason = reason or "the journal does not know it any more; put a backup of that in its place"
            if reason:
                self._dispatch.put([_refused(one, reason)])
            elif entry is None:
                # The journal was removed, or cannot be read.
                self._dispatch.put([self._brought_back(one)])
            else:
                known.append(entry)
        self._moved.find(known)
        if known:
            for result in self._dispatch.attempt(GiveBack([entry.id for entry in known])):
                self._tell(result)
        self._dispatch.release(name for one in wanted for name in (one.path, one.aside))

    def _tell(self, result: Result) -> None:
        if result.state == "given_back":
            self._said.pop(result.id, None)
            self._dispatch.tell(FileGivenBack(result.id, result.path, result.shown))
        elif self._said.get(result.id) != result.text:
            self._said[result.id] = result.text
            self._dispatch.tell(ActionRefused("give back", result.kept, result.path, result.text))

    def _brought_back(self, one: Standing) -> Result:
        """Give a file its name back by names alone, without a journal that knows of it."""
        try:
            shown = bring_back(self._roots.to_act_in(one.path), one.path, one.aside)
        except (LoraError, OSError) as error:
            return _refused(one, str(error))
        self._dispatch.tell(FileGivenBack(max(one.id, 0), one.path, shown))
        return Result(one.id, one.action, one.kept, one.path, 0, "given_back", aside=one.aside, shown=shown)


def _refused(one: Standing, reason: str) -> Result:
    return Result(one.id, one.action, b"", one.path, 0, "refused", reason, aside=one.aside)


class Undoing:
    """For the thread of `dispatch`."""

    def __init__(self, dispatch: Dispatch, moved: Moved, keepers: Keepers) -> None:
        self._dispatch = dispatch
        self._moved = moved
        self._keepers = keepers

    def on_request(self, ids: Sequence[int] | None) -> Undone | Refusal:
        """Undo these actions, the newest first, since a later one may stand on what an earlier one left."""
        entries = self._dispatch.history.entries(ids)
        if ids and not any(entries.values()):
            return Refusal("not-found", f"there is no action {ids[0]}; see the history")
        outcomes: list[Outcome] = []
        known = []
        for number, entry in entries.items():
            if entry is None:
                text = f"there is no action {number}; see the history"
                outcomes.append(Outcome(number, "", b"", b"", 0, "refused", text))
            elif silent := why_silent(entry.gone.path):
                outcomes.append(self._outcome(entry, None, silent))
            else:
                known.append(entry)
        self._moved.find(entry for entry in known if entry.state in (*HELD, "lost"))
        for begin in range(0, len(known), GROUP):
            self._dispatch.left = len(known) - begin
            outcomes += self._group(known[begin : begin + GROUP])
        self._dispatch.left = 0
        return Undone(*counted(outcomes))

    def _group(self, group: Sequence[Entry]) -> list[Outcome]:
        names = [entry.gone.path for entry in group]
        self._dispatch.under_way.update(names)
        sources, unknown = {}, {}
        for entry in group:
            if entry.state not in (*HELD, "shared"):
                sources[entry.id], unknown[entry.id] = kept_for(self._keepers, entry, by_itself=False)
        results: dict[int, Result] = {}
        reason = DIED
        try:
            asked = self._dispatch.ask(Undo([entry.id for entry in group], sources))
            results = {result.id: result for result in asked}
        except StateError as error:
            reason = str(error)
        outcomes = [self._outcome(entry, results.get(entry.id), reason, unknown.get(entry.id)) for entry in group]
        self._dispatch.release(names)
        return outcomes

    def _outcome(self, entry: Entry, result: Result | None, reason: str, unknown: str | None = None) -> Outcome:
        """`reason`: why there is no result. `unknown`: why it is not known what a freed file can be made from."""
        state = {"undone": "done"}.get(result.state, result.state) if result else "refused"
        text = result.text if result else reason
        if state == "done":
            self._dispatch.tell(ActionUndone(entry.id, entry.gone.path))
        elif state == "refused" and result and unknown:
            text = f"{text}; {unknown}"
        size = result.bytes if result and state == "done" else 0
        return Outcome(entry.id, entry.action, entry.kept.path, entry.gone.path, size, state, text)
