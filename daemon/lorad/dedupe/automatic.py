"""Newcomers that turn out to be duplicates are acted on by themselves, by the policy of the configuration."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from loracore.control import Outcome, Refusal
from lorad.catalog import Newcomer
from lorad.dedupe.desk import Desk
from lorad.dedupe.moves import Moves, undoably
from lorad.dedupe.newcomers import MOST, Newcomers
from lorad.dedupe.plan import UNREAD, YOUNG, Plan, Step
from lorad.files import signed
from lorad.library.keepers import Copy

#: Seconds until a file is looked at again that is not read to its end.
_UNREAD = 1.0
#: Plans for newcomers, given in another thread; see `ControlServer.plan_for`.
PlanFor = Callable[[Collection[bytes], Callable[[Plan | Refusal], None]], None]
#: Newcomers that are seen to, by name.
Due = Mapping[bytes, Newcomer]


class Automatic:
    """What the core knows of newcomers becomes plans, and those become actions at the desk.

    `newcomer` and `look` are called by the core; `failed` hears, in any thread, why it could not be acted, and
    `wake` is called when some were seen to.
    """

    def __init__(
        self, desk: Desk, plan_for: PlanFor, failed: Callable[[str], None], wake: Callable[[], None]
    ) -> None:
        self._desk = desk
        self._plan_for = plan_for
        self._failed = failed
        self._wake = wake
        self._lock = threading.Lock()
        self._newcomers = Newcomers()
        self._moves = Moves()
        #: Newcomers are planned for, or acted on.
        self._busy = False
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

    def newcomer(self, path: bytes) -> None:
        """A file of this name has become a duplicate."""
        if self.acts:
            with self._lock:
                self._newcomers.add(path)

    def take_left(self) -> set[bytes]:
        """Newcomers that are settled, given up or forgotten, since this was asked the last time."""
        with self._lock:
            return self._newcomers.take_left()

    @property
    def busy(self) -> bool:
        return self._busy

    @property
    def room(self) -> int:
        """How many newcomers more are remembered."""
        with self._lock:
            return MOST - len(self._newcomers)

    def waits_for(self, names: Collection[bytes]) -> bool:
        """Whether one of these is a newcomer that is not settled yet."""
        with self._lock:
            return any(name in self._newcomers for name in names)

    def look(self, still: Callable[[bytes], Newcomer | None]) -> None:
        """See to those that are due, once the catalogue has them.

        `still`: what a name leads to, if that is what it led to when it was noted.
        """
        now = time.monotonic()
        with self._lock:
            if self._busy:
                return
            named = self._newcomers.due(now)
            due = {path: newcomer for path in named if (newcomer := still(path)) is not None}
            if len(due) < len(named):
                # One that was moved is soon told of under its new name, as long as it waits under the old one.
                self._newcomers.refused(set(named).difference(due), now)
            if not due:
                return
            self._busy = True
        self._plan_for(due.keys(), lambda plan: self._planned(due, plan))

    def _planned(self, due: Due, plan: Plan | Refusal) -> None:
        if isinstance(plan, Refusal):
            self._failed(f"newcomers cannot be looked up: {plan.text}")
            self._later(due)
        elif not self._desk.submit(lambda: self._act(due, plan)):
            self._later(due)

    def _act(self, due: Due, plan: Plan) -> None:
        """In the desk's thread."""
        try:
            back = self._put_back(due, plan.steps)
            steps = [step for step in plan.steps if _is_due(step, due, back)]
            moved = self._moves.going_on(steps, time.time_ns())
            waits = {step.path for step in moved}
            steps = [undoably(step) for step in steps if step.path not in waits]
            # Whoever changes the action, to `report` above all, does not want the rest of this one.
            outcomes = self._desk.carry_out(steps, watched=False, wanted=partial(self._is_still, plan.action))
            if len(outcomes) < len(steps):
                self._later(due)
            else:
                self._sort(due, plan, dict(zip(steps, outcomes, strict=True)), moved)
        except Exception as error:
            self._failed(f"newcomers cannot be acted on: {error}")
            self._later(due)
            raise

    def _is_still(self, action: str) -> bool:
        return self._action == action

    def _put_back(self, due: Due, steps: Sequence[Step]) -> set[tuple[int, int]]:
        """The inodes that would go, or that are newcomers, and that stand where they do by an undo."""
        copies = {step.gone[1:3]: step.gone for step in steps}
        copies |= {step.keeper[1:3]: step.keeper for step in steps if not due.keys().isdisjoint(step.keeper.paths)}
        return self._desk.past.put_back(copies)

    def _sort(self, due: Due, plan: Plan, done: Mapping[Step, Outcome], moved: Sequence[Step]) -> None:
        """Which of them are through, and when to look at the others again."""
        vain: set[bytes] = set()
        for step, outcome in done.items():
            if outcome.state == "refused":
                vain.update(step.gone.paths, step.keeper.paths)
        skipped = {row.path: row.reason for row in plan.skipped}
        kept_by = {path: step.kept for step in plan.steps for path in (*step.gone.paths, *step.keeper.paths)}
        unread = [path for path in due if skipped.get(path, "").endswith(UNREAD)]
        young = [path for path in due if skipped.get(path, "").endswith(YOUNG)]
        moving = {path for step in moved for path in (*step.gone.paths, *step.keeper.paths)}.intersection(due)
        # What is no duplicate at the moment may be read anew, as its mode was changed.
        seen = kept_by.keys() | skipped.keys() | {row.kept for row in plan.skipped}
        again = vain.intersection(due) | due.keys() - seen
        now = time.monotonic()
        ripe = now + max(0.0, ((plan.due_ns or 0) - time.time_ns()) / 1e9)
        with self._lock:
            self._newcomers.settled(due.keys() - {*unread, *young, *moving, *again})
            self._newcomers.wait(unread, now + _UNREAD)
            self._newcomers.wait(young, ripe)
            self._newcomers.wait(moving, now + self._moves.seconds_left(time.time_ns()))
            self._newcomers.refused(again, now)
            self._busy = False
        self._wake()

    def _later(self, due: Due) -> None:
        with self._lock:
            self._newcomers.refused(due.keys(), time.monotonic())
            self._busy = False


def _is_due(step: Step, due: Due, back: Collection[tuple[int, int]]) -> bool:
    """Whether a newcomer is reason for the step; one that was put back is none, nor does it go."""
    return step.gone[1:3] not in back and any(
        copy[1:3] not in back and _is_of(copy, due) for copy in (step.gone, step.keeper)
    )


def _is_of(copy: Copy, due: Due) -> bool:
    """Whether a file is a newcomer. One of its names may be that of another file by now."""
    inode = signed(copy.ino), copy.size, copy.mtime_ns
    return any(due[path][1:] == inode for path in copy.paths if path in due)
