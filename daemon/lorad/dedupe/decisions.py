"""De-duplication in a running daemon: newcomers, what is put aside, and what is said of both.

The core calls it at each turn. What the service has done reaches the engine here, and what the engine knows
reaches the decisions of `dedupe.newcomers` and `dedupe.returns`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress

import structlog
from structlog.typing import FilteringBoundLogger

from loracore.config import Config
from loracore.control import (
    ActionRefused,
    ActionTaken,
    ActionUndone,
    Event,
    FileFreed,
    FileGivenBack,
    Hidden,
    HiddenFile,
)
from loracore.errors import StateError
from loracore.settings import free_part, grace_seconds
from loracore.tensorfile import has_reader
from lorad.catalog.views import connect, holding, of_layout
from lorad.dedupe.action.hidden import is_link, likeness_of
from lorad.dedupe.action.journal import UNFINISHED, Entry
from lorad.dedupe.action.order import HELD, Result, Side
from lorad.dedupe.action.registry import ACTIONS
from lorad.dedupe.aliases import Aliases
from lorad.dedupe.newcomers import Automatic, PlanFor
from lorad.dedupe.places import Places
from lorad.dedupe.planner import policy_of
from lorad.dedupe.returns import Returns
from lorad.dedupe.rootlock import RootLocks
from lorad.dedupe.service import Service
from lorad.dedupe.summary import Day, list_files, sum_up
from lorad.index.engine import Engine
from lorad.library import Status
from lorad.library.keepers import is_marked
from lorad.watch import calls
from lorad.watch.mounts import Mounted
from lorad.watch.scanner import HIDDEN

#: Seconds that the present group has to end when the daemon does.
_PATIENCE = 1.0
#: Seconds between two records of how long lorad has run.
_CLOCK = 600.0
#: Files that a freed one is tried to be made from.
_OTHERS = 32
#: Seconds between two looks at names while there is no catalogue.
_NAMES = 1.0


class Decisions:
    """`tell` is called with what happened and `complain` with trouble, in any thread.

    `wake` has the core look again, from any thread.
    """

    def __init__(
        self,
        state_dir: str,
        config: Config,
        tell: Callable[[Event], None],
        complain: Callable[[str], None],
        wake: Callable[[], None],
        *,
        make_service: Callable[..., Service] = Service,
    ) -> None:
        self._state_dir = state_dir
        self._config = config
        self._tell = tell
        self._complain = complain
        self._wake = wake
        self._log: FilteringBoundLogger = structlog.get_logger()
        self._lock = threading.Lock()
        self._day = Day(time.time())
        self._places = Places()
        self.service = make_service(
            state_dir, self._told, wake, self._keepers, self._places, self._lock_planner, self.hidden_files
        )
        self.returns = Returns(self.service)
        self._automatic: Automatic | None = None
        self._lock_by: Callable[[RootLocks], None] | None = None
        self._aliases: Aliases | None = None
        #: Duplicates that were found, and after which generation the catalogue has them.
        self._found: dict[bytes, int] = {}
        self._engine: Engine | None = None
        #: Whether all roots were looked through since the engine began: what it says may be long past.
        self._swept = False
        self._loaded = False
        #: What came of actions while there was no engine.
        self._results: deque[Result] = deque()
        self._ticked = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._kept_clock = 0.0
        self._next_names = 0.0
        #: Whether a folder is looked through since what was refused was last tried.
        self._looks = False
        #: How many files were taken up that no action of the journal has put aside.
        self._strays = 0

    def start(self, plan_for: PlanFor, lock_by: Callable[[RootLocks], None]) -> None:
        """Begin, with what makes plans for newcomers, and is to refuse where another lorad acts."""
        self._lock_by = lock_by
        self._automatic = Automatic(self.service, plan_for, self._complain, self._wake)
        self.use(self._config)
        try:
            self.service.clock = self._kept_clock = self.service.past.clock()
        except StateError as error:
            self._complain(str(error))
        self.service.start()

    def _lock_planner(self, locks: RootLocks) -> None:
        assert self._lock_by is not None
        self._lock_by(locks)

    def use(self, config: Config) -> None:
        """Go by this configuration from now on."""
        self._config = config
        self.service.use(config)
        self._places.rules = policy_of(config).rules
        self.returns.grace = grace_seconds(config.dedupe.grace)
        self.returns.free_below = free_part(config.dedupe.free_below)
        if self._automatic:
            self._automatic.use(config.dedupe.action)
            if not self._automatic.acts:
                self._found.clear()

    def go_on(self, engine: Engine) -> None:
        """An engine begins: what the one before it found is found again."""
        self._engine, self._swept, self._loaded = engine, False, False
        engine.put_off(self.service.is_under_way)
        new = [
            file.names[0] for file in engine.files if file.fresh and file.status is Status.DUPLICATE and file.names
        ]
        self._found = dict.fromkeys(new, -1)

    def looks_through(self) -> None:
        """A folder is looked through: what could not be done may be possible now, as a disk was mounted."""
        self._looks = True

    def gone(self, path: bytes) -> None:
        """A name is not there any more, or another file has it."""
        self.returns.gone(path)

    def duplicate(self, path: bytes, generation: int) -> None:
        """A new file became a duplicate while the catalogue was at this generation."""
        if self._automatic is not None and self._automatic.acts and len(self._found) < self._automatic.room:
            self._found[path] = generation

    def step(self, engine: Engine | None, generation: int, *, quiet: bool, trouble: bool = False) -> None:
        """One turn. `quiet`: nothing settles, is looked through or is read. `trouble`: of the catalogue."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.service.clock += now - self._ticked
        self._ticked = now
        if engine is not None:
            self._take(engine)
            self._swept |= not engine.sweeping
            if self._looks and not engine.sweeping:
                self._looks = False
                self.returns.retry()
            if self._swept:
                self._decide(engine, generation, quiet=quiet)
        if trouble and not (engine is not None and self._swept):
            self._look_at_names()
        self._keep_clock()
        with self._lock:
            summary = self._day.ended(time.time())
        if summary is not None:
            self._log.info(
                "the day", done=summary.done, bytes=summary.bytes, refused=summary.refused, undone=summary.undone
            )
            self._tell(summary)

    def stop(self) -> None:
        if any(self.returns.held):
            self.service.keep_clock()
        self.service.stop(_PATIENCE)
        if self._aliases is not None:
            self._aliases.close()

    # What the service has done

    def _take(self, engine: Engine) -> None:
        if not self._loaded and self.service.repaired:
            self._load(engine)
        self._results += self.service.take()
        while self._results:
            self._put(engine, self._results.popleft())

    def _load(self, engine: Engine) -> None:
        """Take up what the journal says is put aside."""
        try:
            results = self.service.in_force()
        except StateError as error:
            self._complain(str(error))
            return
        self._loaded = True
        self.returns.load()
        known: set[bytes] = set()
        missing = []
        for result in results:
            if result.state in HELD and not calls.may_be_there(result.aside):
                missing.append(result.id)
            elif result.state in HELD:
                known |= _hide(engine, result.path, result)
            self.returns.put(result, _weights(engine, result))
            self._look_at_link(result)
        engine.only_hidden(known)
        if missing:
            self.service.look_for(missing)

    def _look_at_link(self, result: Result) -> None:
        """Its owner may have moved it before he could be heard to."""
        if ACTIONS[result.action].symbolic and not is_link(result.path):
            self.returns.gone(result.path)

    def _look_at_names(self) -> None:
        """See to what is missed while there is no catalogue: its disk may be full, or not there."""
        now = time.monotonic()
        if now < self._next_names:
            return
        self._next_names = now + _NAMES
        for result in self.service.take():
            # Of what was done, the engine is told once there is one.
            self._results.append(result)
            self.returns.refused(result.id if result.state == "refused" else 0)
        if not any(self.returns.held):
            with suppress(StateError):
                for result in self.service.in_force():
                    self.returns.put(result, [(result.layout, result.weights)])
        self.returns.look_at_names()

    def _adopt(self, engine: Engine) -> None:
        """Take up what was put aside by actions that the journal does not know, or was copied since."""
        strays = engine.strays()
        token = self.service.past.token().encode() if strays else b""
        for path in strays:
            match = HIDDEN.fullmatch(os.path.basename(path))
            assert match is not None
            name = os.path.join(os.path.dirname(path), match["name"])
            if self.service.is_under_way(name):
                continue
            with suppress(calls.NoAnswer):
                unit = calls.is_folder(path)
                ours = match["token"] == token and self._is_ours(int(match["id"][:18]), path)
                if calls.may_be_there(path) and not ours:
                    self._strays += 1
                    stray = _stray(self._strays, name, path, unit=unit)
                    _hide(engine, name, stray)
                    self.returns.put(stray, _weights(engine, stray))
                engine.no_stray(path)

    def _is_ours(self, number: int, path: bytes) -> bool:
        """Whether an action of our journal is about this very file, or may be."""
        entry = self.service.past.entries([number])[number]
        if entry is None or entry.state not in (*UNFINISHED, *HELD, "lost"):
            return False
        aside = os.path.join(os.path.dirname(entry.gone.path), entry.aside)
        if aside != path and not likeness_of(path, entry):
            # Its number was given before, too: the journal is from a backup.
            return False
        if entry.state not in UNFINISHED and aside != path and not calls.may_be_there(aside):
            # Its folder was moved, or is back.
            return self.service.look_for([number])
        return entry.state in UNFINISHED or aside == path

    def _put(self, engine: Engine, result: Result) -> None:
        """What names lead to since an action."""
        if result.kept_before is not None and result.kept_now is not None:
            engine.relinked(result.kept_before, result.kept_now)
        match result.state:
            case "hidden" | "waiting" | "quarantined":
                before = next((one.aside for one in self.returns.held if one.id == result.id), result.path)
                if before != result.aside:
                    _hide(engine, before, result)
            case "undone" | "given_back" if ACTIONS[result.action].hides:
                _show(engine, result.aside, result.shown)
            case "freed" | "linked" | "lost":
                _show(engine, result.aside, b"")
            case "shared" | "undone":
                engine.rearranged(result.kept)
                engine.rearranged(result.path)
        if result.id and result.state not in ("nothing", "refused"):
            self.returns.put(result, _weights(engine, result))
            self._look_at_link(result)
        elif result.state == "refused":
            self.returns.refused(result.id)
        self.service.settled(result)
        for path in {result.path, result.shown} - {b""}:
            engine.touched(path)

    # What is to be done

    def _decide(self, engine: Engine, generation: int, *, quiet: bool) -> None:
        assert self._automatic is not None
        if self._loaded:
            with suppress(StateError):
                self._adopt(engine)
            self.returns.look(engine, self._places, quiet=quiet)
            if quiet:
                self.returns.follow_links(engine.links)
            for path in self.returns.missing_keepers():
                engine.touched(path)
            self.returns.free_due(self.service.clock, [os.fsencode(root) for root in self._config.watch.roots])
        # One that came again while its name is acted on is not settled with that.
        if not self._automatic.busy:
            for path in [path for path, found in self._found.items() if found < generation]:
                del self._found[path]
                self._automatic.newcomer(path)
            self._automatic.look(engine.is_newcomer)

    def _keepers(self, entry: Entry, by_itself: bool) -> Sequence[Side]:
        """Files that may keep what an action has put aside, the best first. In the service's thread."""
        with closing(connect(self._state_dir)) as db:
            rows = holding(db, entry.layout, entry.weights) if entry.weights else []
            if not rows and entry.rebuild:
                # The one that is left may have been moved, so that its weights were not read again.
                rows = of_layout(db, entry.layout, _OTHERS)
        gone = entry.gone.path
        marked = by_itself and not is_marked(gone)
        paths = [
            (path, identity)
            for path, identity in rows
            if self._places.may_keep(path, gone) and not os.path.islink(path) and not (marked and is_marked(path))
        ]
        if self._aliases is None:
            self._aliases = Aliases(Mounted())
        aliases = self._aliases
        # At its name there may be a link of ours to the very file that is kept.
        at = self.service.aside_of(entry) if entry.state in HELD else gone
        paths = [row for row in paths if not aliases.refusal(at, row[0], by_itself=by_itself, fresh=True)]
        paths.sort(key=lambda row: (row[0] != entry.kept.path, is_marked(row[0]), len(row[0]), row[0]))
        sides = [self.service.side(path, identity) for path, identity in paths[:_OTHERS]]
        return sides if rows or entry.weights else [entry.kept]

    def _keep_clock(self) -> None:
        """Write down now and then how long lorad has run, where something waits for that."""
        if self.service.clock - self._kept_clock >= _CLOCK and any(self.returns.held):
            self._kept_clock = self.service.clock
            self.service.keep_clock()

    # What is said of it

    def hidden(self) -> Hidden:
        """For status."""
        return sum_up(self.returns, self.service.clock, self._config.watch.roots)

    def hidden_files(self, ids: Sequence[int] | None) -> list[HiddenFile]:
        """What these actions, or all, have put aside, the one that is due first in front."""
        return list_files(self.returns, self.service.clock, ids)

    def _told(self, event: Event) -> None:
        match event:
            case ActionTaken(number, action, kept, path):
                self._log.info("acted", id=number, action=action, kept=kept, path=path, bytes=event.bytes)
            case ActionRefused(action, kept, path, reason):
                self._log.warning("not acted", action=action, kept=kept, path=path, reason=reason)
            case ActionUndone(number, path):
                self._log.info("undone", id=number, path=path)
            case FileFreed(number, path, size):
                self._log.info("freed", id=number, path=path, bytes=size)
            case FileGivenBack(number, path, name):
                self._log.info("given back", id=number, path=path, shown=name)
        if isinstance(event, ActionTaken | ActionRefused | ActionUndone):
            with self._lock:
                self._day.add(event)
        self._tell(event)


def _hide(engine: Engine, before: bytes, result: Result) -> set[bytes]:
    """A file, or all model files of a folder, were put aside from `before`; the names that they have now."""
    if not result.unit:
        engine.hide(before, result.aside)
        return {result.aside}
    hidden = set()
    for folder, _, names in os.walk(result.aside):
        for name in filter(has_reader, names):
            aside = os.path.join(folder, name)
            engine.hide(before + aside[len(result.aside) :], aside)
            hidden.add(aside)
    return hidden


def _show(engine: Engine, aside: bytes, shown: bytes) -> None:
    """What was put aside there is at `shown` again; empty: it is no more."""
    hidden = [path for path in engine.hidden() if path == aside or path.startswith(aside + b"/")]
    for path in hidden:
        engine.show(path, shown + path[len(aside) :] if shown else None)
    if shown and not hidden:
        engine.came_back(shown)
    with suppress(calls.NoAnswer):
        if shown and calls.is_folder(shown):
            # What else is in the folder is known by none of these names.
            engine.sweep(shown)


def _stray(number: int, path: bytes, aside: bytes, *, unit: bool) -> Result:
    """What was put aside by an action that the journal does not know."""
    return Result(-number, "delete", b"", path, 0, "hidden", aside=aside, unit=unit, function=b"", config=b"")


def _weights(engine: Engine, result: Result) -> set[tuple[bytes, bytes]]:
    """The weights that an action has put aside: a folder may hold several."""
    found = {(result.layout, result.weights), *engine.weights_hidden_at(result.aside, unit=result.unit)}
    return {weights for weights in found if all(weights)}
