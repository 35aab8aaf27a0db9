"""The watched folders that lorad acts in: which one a file lies in, and that no other lorad acts there.

Hidden files that are not where they were hidden are looked for there, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from loracore.config import Config
from loracore.control import ActionRefused
from loracore.errors import LoraError, StateError
from loracore.identity import Identity
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.hidden import find, is_lost, shown_at
from lorad.dedupe.action.order import Result, Side
from lorad.dedupe.dispatch import Dispatch
from lorad.dedupe.planner import resolved
from lorad.dedupe.process import GiveBack, Note
from lorad.dedupe.rootlock import RootLocks, holder_of
from lorad.library.keepers import is_inside
from lorad.watch import timed_calls
from lorad.watch.scanner import HIDDEN


class Roots:
    """For the thread of `dispatch`."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        #: Called with the locks once there are any.
        self.lock_by: Callable[[RootLocks], None] = lambda locks: None
        self.locks: RootLocks | None = None
        self.paths: tuple[bytes, ...] = ()
        self._acts = False

    def use(self, config: Config) -> None:
        """Go by this configuration from now on. From any thread."""
        self.paths = tuple(map(resolved, config.watch.roots))
        self._acts = config.dedupe.action != "report"
        self._dispatch.submit(self.hold)

    def hold(self, *, on_request: bool = False) -> None:
        """Let no other lorad act in the roots while this one does. `on_request`: it does, whatever the policy."""
        acts, process = self._acts or on_request, self._dispatch.process
        try:
            if acts and self.locks is None:
                if not process.token:
                    process.start()
                self.locks = RootLocks(process.token)
                self.lock_by(self.locks)
        except StateError as error:
            self._dispatch.tell(ActionRefused("", b"", b"", str(error)))
        if self.locks is not None:
            for root, why in self.locks.use(self.paths if acts else ()).items():
                self._dispatch.tell(ActionRefused("", b"", root, f"{why}; until then this one only reports"))

    def let_go(self) -> None:
        """A request is over: hold the roots no more where the policy is to report."""
        if not self._acts:
            self.hold()

    def close(self) -> None:
        if self.locks is not None:
            self.locks.close()

    def refusal(self, path: bytes) -> str:
        """Why nothing may be done to a file: another lorad acts in its folder. Empty where none does."""
        return self.locks.refusal(os.path.dirname(path)) if self.locks else ""

    def side(self, path: bytes, identity: Identity) -> Side:
        """A file of the library for an order. Raises LoraError for one that no root holds any more."""
        return Side(path, identity, self._root_of(path))

    def to_act_in(self, path: bytes) -> bytes:
        """The root that a name lies in. Raises LoraError where there is none, or another lorad acts in it."""
        root, holder = self._root_of(path), holder_of(os.path.dirname(path))
        if holder is not None and not holder.ours:
            raise LoraError(str(holder))
        return root

    def _root_of(self, path: bytes) -> bytes:
        inside = [root for root in self.paths if is_inside(path, root)]
        if not inside:
            raise LoraError(f"{os.fsdecode(path)}: it lies in no watched folder any more; see [watch] roots")
        return max(inside, key=len)


class Moved:
    """Hidden files whose folder was moved, or that were removed. For the thread of `dispatch`."""

    def __init__(self, dispatch: Dispatch, roots: Roots) -> None:
        self._dispatch = dispatch
        self._roots = roots

    def find(self, entries: Iterable[Entry]) -> None:
        """Look for those that are not where they were hidden."""
        missing = {entry.id for entry in entries if not timed_calls.may_be_there(self._dispatch.aside_of(entry))}
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
