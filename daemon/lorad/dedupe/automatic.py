"""Newcomers that turn out to be duplicates are acted on by themselves, by the policy of the configuration."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from loracore.control import Outcome, Refusal
from lorad.dedupe.newcomers import MOST, Newcomers
from lorad.dedupe.plan import UNREAD, YOUNG, Plan, Step
from lorad.dedupe.service import Service
from lorad.dedupe.wholes import PART

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
            return MOST - len(self._newcomers)

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
        wanted = partial(self._is_still, plan.action)
        unread = {row.kept for row in plan.skipped if row.reason.endswith(UNREAD)}
        steps = [step for step in plan.steps if step.kept not in unread]
        if not self._service.act(steps, wanted, lambda outcomes: self._acted(due, plan, steps, outcomes)):
            self._later(due)

    def _is_still(self, action: str) -> bool:
        return self._action == action

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
