"""Which newcomers the policy is asked about by itself, and when. No I/O and no clock of its own.

A newcomer is a name that became a duplicate while its root was known. It waits here until it was acted on or
there is nothing to do about it. What could not be done, as somebody had the file open for one, is tried again
after five seconds, a minute, ten minutes and an hour.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

from loracore.control import Outcome, Refusal
from lorad.dedupe.plan import PART, UNREAD, YOUNG, Plan, Step
from lorad.dedupe.rootlock import HELD_BY_ANOTHER
from lorad.dedupe.service import Service

#: Seconds until the next try.
_RETRIES = (5.0, 60.0, 600.0, 3600.0)
#: Names that are remembered; `loractl dedupe` knows all.
_MOST = 100_000


class Newcomers:
    """Times are seconds on a clock that does not jump. `most`: names that are remembered."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        #: When each is due, and how often it was tried in vain.
        self._waiting: dict[bytes, tuple[float, int]] = {}
        #: Those that are due with any other one in their folder, and since when they wait for it.
        self._parts: dict[bytes, float] = {}
        #: None is due before; it is asked far more often than anything changes.
        self._next_due = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def room(self) -> int:
        """How many names more are remembered."""
        return self._most - len(self._waiting)

    def __contains__(self, path: bytes) -> bool:
        return path in self._waiting

    def add(self, path: bytes) -> None:
        """It became a duplicate: it is due at once."""
        if self.room > 0:
            self._waiting[path] = (0.0, 0)
            self._next_due = 0.0

    def due(self, now: float) -> list[bytes]:
        if now < self._next_due:
            return []
        self._next_due = min((when for when, _ in self._waiting.values()), default=math.inf)
        due = [path for path, (when, _) in self._waiting.items() if when <= now]
        folders = {os.path.dirname(path) for path in due} if self._parts else set()
        return due + [path for path in self._parts.keys() - due if os.path.dirname(path) in folders]

    def settled(self, paths: Iterable[bytes]) -> None:
        """Nothing more is to be done about these."""
        for path in paths:
            self._waiting.pop(path, None)
            self._parts.pop(path, None)

    def wait(self, paths: Iterable[bytes], until: float) -> None:
        """Ask again then, without counting that as a try in vain."""
        for path in paths:
            if path in self._waiting:
                self._waiting[path] = (until, self._waiting[path][1])
                self._next_due = min(self._next_due, until)

    def wait_for_others(self, paths: Iterable[bytes], now: float) -> None:
        """Ask again when another one in the folder is due: parts of an adapter folder come one by one.

        What comes last may be no model, so ask also when they have waited twice as long, or an hour longer.
        """
        for path in self._waiting.keys() & set(paths):
            since = self._parts.setdefault(path, now)
            self.wait([path], now + min(max(now - since, _RETRIES[0]), _RETRIES[-1]))

    def refused(self, paths: Collection[bytes], now: float) -> None:
        """It was tried in vain: ask again later, unless that was the last time."""
        for path in paths:
            if path not in self._waiting:
                continue  # Forgotten while it was tried.
            _, tried = self._waiting[path]
            if tried < len(_RETRIES):
                self._waiting[path] = (now + _RETRIES[tried], tried + 1)
                self._next_due = min(self._next_due, now + _RETRIES[tried])
            else:
                self.settled([path])

    def forget(self) -> None:
        """The policy is to report again."""
        self.settled(list(self._waiting))


#: Seconds until a file is looked at again that is not read to its end.
_UNREAD = 1.0
#: Plans for newcomers, given in another thread; see `ControlServer.plan_for`.
PlanFor = Callable[[Collection[bytes], Callable[[Plan | Refusal], None]], None]


class Automatic:
    """What the core knows of newcomers becomes plans, and those become actions of the service.

    `newcomer` and `look` are called by the core; `failed` is called, in any thread, with why nothing was done, and
    `wake` when some were seen to.
    """

    def __init__(
        self, service: Service, plan_for: PlanFor, failed: Callable[[str], None], wake: Callable[[], None]
    ) -> None:
        self._service = service
        self._plan_for = plan_for
        self._failed = failed
        self._wake = wake
        self._lock = threading.Lock()
        self._newcomers = Newcomers()
        #: Newcomers are planned for, or acted on.
        self.busy = False
        self._action = "report"

    def use(self, action: str) -> None:
        """The configured action from now on."""
        self._action = action
        if not self.acts:
            with self._lock:
                self._newcomers.forget()

    @property
    def acts(self) -> bool:
        return self._action != "report"

    @property
    def room(self) -> int:
        """How many newcomers more are remembered."""
        with self._lock:
            return self._newcomers.room

    def newcomer(self, path: bytes) -> None:
        """A file of this name has become a duplicate."""
        if self.acts:
            with self._lock:
                self._newcomers.add(path)

    def look(self, is_newcomer: Callable[[bytes], bool]) -> None:
        """See to those that are due, once the catalogue has them."""
        with self._lock:
            if self.busy:
                return
            named = self._newcomers.due(time.monotonic())
            due = {path for path in named if is_newcomer(path)}
            # One that was moved is a duplicate found anew under its new name.
            self._newcomers.settled(set(named) - due)
            if not due:
                return
            self.busy = True
        self._plan_for(due, lambda plan: self._planned(due, plan))

    def _planned(self, due: set[bytes], plan: Plan | Refusal) -> None:
        if isinstance(plan, Refusal):
            self._failed(f"newcomers cannot be looked up: {plan.text}")
            self._later(due)
            return
        # With another action, `report` above all, the rest of this one is not wanted.
        unread = {row.kept for row in plan.skipped if row.reason.endswith(UNREAD)}
        steps = [step for step in plan.steps if step.kept not in unread]
        done = partial(self._acted, due, plan, steps)
        if not self._service.act(steps, lambda: self._action == plan.action, done):
            self._later(due)

    def _acted(self, due: set[bytes], plan: Plan, steps: Sequence[Step], outcomes: Sequence[Outcome]) -> None:
        if len(outcomes) < len(steps):
            self._later(due)
        else:
            self._sort(due, plan, {outcome.path: outcome for outcome in outcomes})

    def _sort(self, due: set[bytes], plan: Plan, done: Mapping[bytes, Outcome]) -> None:
        """Which of them are through, and when to look at the others again."""
        skipped = {row.path: row.reason for row in plan.skipped}
        kept_by = {path: step.kept for step in plan.steps for path in (*step.gone.paths, *step.keeper.paths)}
        waiting = {row.kept for row in plan.skipped if row.reason.endswith(UNREAD)}
        unread = {path for path in due if skipped.get(path, "").endswith(UNREAD) or kept_by.get(path) in waiting}
        young = {path for path in due if skipped.get(path, "").endswith(YOUNG)}
        parts = {path for path in due if skipped.get(path, "").startswith(PART)}
        vain = {path for path in due if path in done and done[path].state == "refused"}
        vain |= {path for path in due if skipped.get(path, "").startswith(HELD_BY_ANOTHER)}
        # What is no duplicate at the moment may be read anew, as its mode was changed.
        again = vain | (due - kept_by.keys() - skipped.keys() - {row.kept for row in plan.skipped})
        now = time.monotonic()
        ripe = now + max(0.0, ((plan.due_ns or 0) - time.time_ns()) / 1e9)
        with self._lock:
            self._newcomers.settled(due - unread - young - parts - again)
            self._newcomers.wait(unread, now + _UNREAD)
            self._newcomers.wait(young, ripe)
            self._newcomers.wait_for_others(parts, now)
            self._newcomers.refused(again, now)
            self.busy = False
        self._wake()

    def _later(self, due: set[bytes]) -> None:
        with self._lock:
            self._newcomers.refused(due, time.monotonic())
            self.busy = False
