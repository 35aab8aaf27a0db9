"""What came of actions, put into the engine: which names are hidden, shown again, or lead to other files.

Files that were hidden by actions that the journal does not know are taken up here, too.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from loracore.errors import StateError
from loracore.tensorfile import has_reader
from lorad.dedupe.action.entry import UNFINISHED
from lorad.dedupe.action.hidden import is_link, likeness_of
from lorad.dedupe.action.order import HELD, Result
from lorad.dedupe.action.registry import ACTIONS
from lorad.dedupe.missed import Missed
from lorad.dedupe.service import Service
from lorad.index.engine import Engine
from lorad.watch import timed_calls
from lorad.watch.scanner import HIDDEN

#: Seconds between two looks at names while there is no catalogue.
_NAMES = 1.0


class Outcomes:
    """For the core. `complain` is called with trouble of the journal."""

    def __init__(self, service: Service, missed: Missed, complain: Callable[[str], None]) -> None:
        self._service = service
        self._dispatch = service.dispatch
        self._missed = missed
        self._complain = complain
        #: Whether the engine has what the journal says is hidden.
        self.loaded = False
        #: What came of actions while there was no engine.
        self._results: deque[Result] = deque()
        self._next_names = 0.0
        #: How many files were taken up that no action of the journal has hidden.
        self._strays = 0

    def take(self, engine: Engine) -> None:
        """Take what came of actions since this was last called."""
        if not self.loaded and self._dispatch.interrupted.is_done:
            self._load(engine)
        self._results += self._dispatch.take()
        while self._results:
            self._put(engine, self._results.popleft())

    def _load(self, engine: Engine) -> None:
        """Take up what the journal says is hidden."""
        try:
            results = self._service.in_force()
        except StateError as error:
            self._complain(str(error))
            return
        self.loaded = True
        self._missed.load()
        known: set[bytes] = set()
        missing = []
        for result in results:
            if result.state in HELD and not timed_calls.may_be_there(result.aside):
                missing.append(result.id)
            elif result.state in HELD:
                known |= _hide(engine, result.path, result)
            self._stands(engine, result)
        engine.hiding.only(known)
        if missing:
            self._service.look_for(missing)

    def _stands(self, engine: Engine, result: Result) -> None:
        self._missed.put(result, _weights(engine, result))
        # Its owner may have moved a link before he could be heard to.
        if ACTIONS[result.action].symbolic and not is_link(result.path):
            self._missed.links.gone(result.path)

    def look_at_names(self) -> None:
        """See to what is missed while there is no catalogue: its disk may be full, or not there."""
        now = time.monotonic()
        if now < self._next_names:
            return
        self._next_names = now + _NAMES
        for result in self._dispatch.take():
            # Of what was done, the engine is told once there is one.
            self._results.append(result)
            self._missed.refused(result.id if result.state == "refused" else 0)
        if not any(self._missed.held):
            with suppress(StateError):
                for result in self._service.in_force():
                    self._missed.put(result, [(result.layout, result.weights)])
        self._missed.look_at_names()

    def _put(self, engine: Engine, result: Result) -> None:
        """What names lead to since an action."""
        if result.kept_before is not None and result.kept_now is not None:
            engine.names.relinked(result.kept_before, result.kept_now)
        match result.state:
            case "hidden" | "waiting" | "quarantined":
                before = next((one.aside for one in self._missed.held if one.id == result.id), result.path)
                if before != result.aside:
                    _hide(engine, before, result)
            case "undone" | "given_back" if ACTIONS[result.action].hides:
                _show(engine, result.aside, result.shown)
            case "freed" | "linked" | "lost":
                _show(engine, result.aside, b"")
            case "shared" | "undone":
                engine.blocks.add_name(result.kept)
                engine.blocks.add_name(result.path)
        if result.state == "refused":
            self._missed.refused(result.id)
        elif result.id and result.state != "nothing":
            self._stands(engine, result)
        self._dispatch.settled(result)
        for path in {result.path, result.shown} - {b""}:
            engine.looks.touched(path)
        if result.differs:
            keepers = engine.holders.keepers(result.layout, result.weights)
            for path in {result.path, result.kept, *(keeper.path for keeper in keepers)}:
                engine.read_anew(path)

    # Files that the journal does not know

    def adopt(self, engine: Engine) -> None:
        """Take up what was hidden by actions that the journal does not know, or was copied since."""
        strays = engine.hiding.strays()
        token = self._dispatch.history.token().encode() if strays else b""
        for path in strays:
            match = HIDDEN.fullmatch(os.path.basename(path))
            assert match is not None
            name = os.path.join(os.path.dirname(path), match["name"])
            if self._dispatch.is_under_way(name):
                continue
            with suppress(timed_calls.NoAnswer):
                unit = timed_calls.is_folder(path)
                ours = match["token"] == token and self._is_ours(int(match["id"][:18]), path)
                if timed_calls.may_be_there(path) and not ours:
                    self._strays += 1
                    stray = _stray(self._strays, name, path, unit=unit)
                    _hide(engine, name, stray)
                    self._missed.put(stray, _weights(engine, stray))
                engine.hiding.met.discard(path)

    def _is_ours(self, number: int, path: bytes) -> bool:
        """Whether an action of our journal is about this very file, or may be."""
        entry = self._dispatch.history.entries([number])[number]
        if entry is None or entry.state not in (*UNFINISHED, *HELD, "lost"):
            return False
        aside = os.path.join(os.path.dirname(entry.gone.path), entry.aside)
        if aside != path and not likeness_of(path, entry):
            # Its number was given before, too: the journal is from a backup.
            return False
        if entry.state not in UNFINISHED and aside != path and not timed_calls.may_be_there(aside):
            # Its folder was moved, or is back.
            return self._service.look_for([number])
        return entry.state in UNFINISHED or aside == path


def _hide(engine: Engine, before: bytes, result: Result) -> set[bytes]:
    """A file, or all model files of a folder, were hidden from `before`; the names that they have now."""
    if not result.unit:
        engine.hiding.hide(before, result.aside)
        return {result.aside}
    hidden = set()
    for folder, _, names in os.walk(result.aside):
        for name in filter(has_reader, names):
            aside = os.path.join(folder, name)
            engine.hiding.hide(before + aside[len(result.aside) :], aside)
            hidden.add(aside)
    return hidden


def _show(engine: Engine, aside: bytes, shown: bytes) -> None:
    """What was hidden there is at `shown` again; empty: it is no more."""
    hidden = [path for path in engine.hiding.hidden() if path == aside or path.startswith(aside + b"/")]
    for path in hidden:
        engine.hiding.show(path, shown + path[len(aside) :] if shown else None)
    if shown and not hidden:
        engine.hiding.came_back(shown)
    with suppress(timed_calls.NoAnswer):
        if shown and timed_calls.is_folder(shown):
            # What else is in the folder is known by none of these names.
            engine.sweeps.add(shown)


def _stray(number: int, path: bytes, aside: bytes, *, unit: bool) -> Result:
    """What was hidden by an action that the journal does not know."""
    size = 0
    with suppress(OSError):
        size = 0 if unit else timed_calls.stat(aside, follow_symlinks=False).st_size
    return Result(-number, "delete", b"", path, size, "hidden", aside=aside, unit=unit, function=b"", config=b"")


def _weights(engine: Engine, result: Result) -> set[tuple[bytes, bytes]]:
    """The weights that an action has hidden: a folder may hold several."""
    found = {(result.layout, result.weights), *engine.holders.weights_hidden_at(result.aside, unit=result.unit)}
    return {weights for weights in found if all(weights)}
