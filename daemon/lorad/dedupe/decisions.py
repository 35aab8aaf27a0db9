"""De-duplication in a running daemon: newcomers, what is hidden, and what is said of both.

The core calls it at each turn. What the engine knows reaches the decisions of `newcomers` and `missed`, those are
carried out by `service`, and what came of that reaches the engine by `outcomes`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from loracore.config import Config
from loracore.control import Event, Hidden, HiddenFile
from loracore.errors import StateError
from loracore.identity import Identity
from loracore.settings import free_part, grace_seconds
from lorad.dedupe.action.order import Side
from lorad.dedupe.candidates import Candidates
from lorad.dedupe.missed import Missed
from lorad.dedupe.newcomers import Automatic, PlanFor
from lorad.dedupe.outcomes import Outcomes
from lorad.dedupe.places import Places
from lorad.dedupe.planner import policy_of
from lorad.dedupe.rootlock import RootLocks
from lorad.dedupe.service import Service
from lorad.dedupe.summary import Reports, list_files, sum_up
from lorad.index.engine import Engine
from lorad.library import Status

#: Seconds that the present group has to end when the daemon does.
_PATIENCE = 1.0
#: Seconds between two records of how long lorad has run.
_CLOCK = 600.0


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
        self._config = config
        self._complain = complain
        self._wake = wake
        self._reports = Reports(tell)
        self._places = Places()
        self.candidates = Candidates(state_dir, self._places, self._side)
        self.service = make_service(
            state_dir, self._reports.tell, wake, self.candidates, self._places, self.hidden_files
        )
        self._dispatch = self.service.dispatch
        self.missed = Missed(self.service)
        self._outcomes = Outcomes(self.service, self.missed, complain)
        self._automatic: Automatic | None = None
        #: Duplicates that were found, and after which generation the catalogue has them.
        self._found: dict[bytes, int] = {}
        #: Whether all roots were looked through since the engine began: what it says may be long past.
        self._swept = False
        self._ticked = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._kept_clock = 0.0
        #: Whether a folder is looked through since what was refused was last tried.
        self._looks = False

    def start(self, plan_for: PlanFor, lock_by: Callable[[RootLocks], None]) -> None:
        """Begin, with what makes plans for newcomers, and is to refuse where another lorad acts."""
        self.service.roots.lock_by = lock_by
        self._automatic = Automatic(self.service, plan_for, self._complain, self._wake)
        self.use(self._config)
        try:
            self._dispatch.clock = self._kept_clock = self._dispatch.history.clock()
        except StateError as error:
            self._complain(str(error))
        self._dispatch.start()

    def _side(self, path: bytes, identity: Identity) -> Side:
        return self.service.roots.side(path, identity)

    def use(self, config: Config) -> None:
        """Go by this configuration from now on."""
        self._config = config
        self.service.use(config)
        self._places.rules = policy_of(config).rules
        self.missed.freeing.grace = grace_seconds(config.dedupe.grace)
        self.missed.freeing.free_below = free_part(config.dedupe.free_below)
        if self._automatic:
            self._automatic.use(config.dedupe.action)
            if not self._automatic.acts:
                self._found.clear()

    def go_on(self, engine: Engine) -> None:
        """An engine begins: what the one before it found is found again."""
        self._swept = self._outcomes.loaded = False
        engine.looks.put_off = self._dispatch.is_under_way
        new = [
            file.names[0] for file in engine.files if file.fresh and file.status is Status.DUPLICATE and file.names
        ]
        self._found = dict.fromkeys(new, -1)

    def looks_through(self) -> None:
        """A folder is looked through: what could not be done may be possible now, as a disk was mounted."""
        self._looks = True

    def gone(self, path: bytes) -> None:
        """A name is not there any more, or another file has it."""
        self.missed.links.gone(path)

    def duplicate(self, path: bytes, generation: int) -> None:
        """A new file became a duplicate while the catalogue was at this generation."""
        if self._automatic is not None and self._automatic.acts and len(self._found) < self._automatic.room:
            self._found[path] = generation

    def step(self, engine: Engine | None, generation: int, *, quiet: bool, trouble: bool = False) -> None:
        """One turn. `quiet`: nothing settles, is looked through or is read. `trouble`: of the catalogue."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._dispatch.clock += now - self._ticked
        self._ticked = now
        if engine is not None:
            self._outcomes.take(engine)
            self._swept |= not engine.sweeps.active
            if self._looks and not engine.sweeps.active:
                self._looks = False
                self.missed.retry()
            if self._swept:
                self._decide(engine, generation, quiet=quiet)
        if trouble and not (engine is not None and self._swept):
            self._outcomes.look_at_names()
        # How long lorad has run is written down now and then, where something waits for that.
        if self._dispatch.clock - self._kept_clock >= _CLOCK and any(self.missed.held):
            self._kept_clock = self._dispatch.clock
            self.service.keep_clock()
        self._reports.end_day()

    def _decide(self, engine: Engine, generation: int, *, quiet: bool) -> None:
        assert self._automatic is not None
        if self._outcomes.loaded:
            with suppress(StateError):
                self._outcomes.adopt(engine)
            self.missed.look(engine.holders, self._places, quiet=quiet)
            if quiet:
                self.missed.links.follow(engine.names.links)
            for path in self.missed.missing_keepers():
                engine.looks.touched(path)
            roots = [os.fsencode(root) for root in self._config.watch.roots]
            self.missed.freeing.free(self._dispatch.clock, roots)
        # One that came again while its name is acted on is not settled with that.
        if not self._automatic.busy:
            for path in [path for path, found in self._found.items() if found < generation]:
                del self._found[path]
                self._automatic.newcomer(path)
            self._automatic.look(engine.holders.is_newcomer)

    def stop(self) -> None:
        if any(self.missed.held):
            self.service.keep_clock()
        self.service.stop(_PATIENCE)
        self.candidates.close()

    def hidden(self) -> Hidden:
        """For status."""
        return sum_up(self.missed, self._dispatch.clock, self._config.watch.roots)

    def hidden_files(self, ids: Sequence[int] | None) -> list[HiddenFile]:
        """What these actions, or all, have hidden, the one that is due first in front."""
        return list_files(self.missed, self._dispatch.clock, ids)
