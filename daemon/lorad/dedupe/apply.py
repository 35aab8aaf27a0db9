"""Carrying a plan out: its steps become orders, group by group, and what came of each is an outcome.

Orders of a group share their syncs.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from loracore.control import PAGE_BYTES, ActionRefused, ActionTaken, DedupeProgress, Outcome
from loracore.errors import LoraError, StateError
from lorad.catalog.views import connect, weights_at
from lorad.dedupe.action.order import Order, Result
from lorad.dedupe.action.registry import ACTIONS
from lorad.dedupe.dispatch import DIED, Dispatch, why_silent
from lorad.dedupe.places import Places
from lorad.dedupe.plan import Step
from lorad.dedupe.process import Apply
from lorad.dedupe.roots import Roots

_LOG = logging.getLogger(__name__)
#: Orders that share their syncs, and the bytes of their files: so long it takes until a request has its turn.
GROUP, GROUP_BYTES = 64, 1 << 30
#: Bytes that an outcome takes beside its paths and words.
_OUTCOME = 120
#: Seconds between two words about how far it is.
_INTERVAL = 0.2


class Applying:
    """For the thread of `dispatch`. `most`: steps of a group."""

    def __init__(self, dispatch: Dispatch, roots: Roots, places: Places, most: int) -> None:
        self._dispatch = dispatch
        self._roots = roots
        self._places = places
        self._most = most
        #: What becomes of the files beside one that goes away.
        self.sidecars = "keep"

    def carry_out(
        self,
        steps: Sequence[Step],
        *,
        watched: bool = False,
        now: bool = False,
        wanted: Callable[[], bool] = lambda: True,
    ) -> list[Outcome]:
        """Take these steps, in their order, as long as they are `wanted`; the outcomes of those that were.

        `watched`: clients hear how far it is. `now`: what is hidden is freed at once.
        """
        self._roots.hold(on_request=bool(steps))
        pace = Pace(steps, self._dispatch.tell if watched else None)
        outcomes: list[Outcome] = []
        broken = ""
        for group in groups(steps, self._most):
            if not wanted():
                break
            self._dispatch.left = len(steps) - len(outcomes)
            made: list[Outcome] = []
            if not broken:
                try:
                    made = self._group(group, pace, now=now)
                except Exception as error:
                    # Whatever it is, what was done before is to be answered.
                    if not isinstance(error, StateError):
                        _LOG.exception("a group of actions")
                    broken = str(error) or type(error).__name__
            made = made or [self._refused(step, broken) for step in group]
            outcomes += made
            for outcome in made:
                self._tell(outcome)
            pace.next(group)
        self._dispatch.left = 0
        self._roots.let_go()
        return outcomes

    def _group(self, group: Sequence[Step], pace: Pace, *, now: bool) -> list[Outcome]:
        """Take the steps of one group. Raises StateError where none was taken."""
        orders: list[tuple[Step, Order]] = []
        refused: list[tuple[Step, str]] = []
        held = self._weights_at([step.path for step in group])
        for step in group:
            try:
                orders.append((step, self._order(step, held.get(step.path, (b"", b"")))))
            except LoraError as error:
                refused.append((step, str(error)))
        results = self._dispatch.ask(Apply([order for _, order in orders], now, self._dispatch.clock), pace.report)
        if not results:
            # The process died over this group, and what was begun was repaired.
            refused += [(step, DIED) for step, _ in orders]
            orders = []
        outcomes = [self._refused(step, why) for step, why in refused]
        return outcomes + [self._taken(step, result) for (step, _), result in zip(orders, results, strict=True)]

    def _weights_at(self, paths: Sequence[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
        """The layout and weights that these names lead to, by the catalogue."""
        try:
            with closing(connect(self._dispatch.state_dir)) as db:
                return weights_at(db, paths)
        except sqlite3.Error:
            return {}

    def _order(self, step: Step, held: tuple[bytes, bytes]) -> Order:
        """`held`: layout and weights. Raises LoraError for what may not be kept, or lies in no root any more."""
        reason = self._places.why_not(step.kept, step.path) or why_silent(step.path)
        reason = reason or self._roots.refusal(step.path)
        if reason:
            raise LoraError(reason)
        layout, weights = held
        return Order(
            action=step.action,
            level=step.level,
            folder=step.folder,
            layout=layout,
            weights=weights,
            kept=self._roots.side(step.kept, step.keeper.identity),
            gone=self._roots.side(step.path, step.gone.identity),
            sidecars="keep" if ACTIONS[step.action].links else self.sidecars,
            bytes=step.bytes,
        )

    def _taken(self, step: Step, result: Result) -> Outcome:
        if result.state == "refused":
            return self._refused(step, result.text, result.id)
        if result.state == "nothing":
            self._dispatch.under_way.difference_update((step.path, step.folder))
        state = "nothing" if result.state == "nothing" else "done"
        return Outcome(result.id, result.action, result.kept, result.path, result.bytes, state, result.text)

    def _refused(self, step: Step, text: str, number: int = 0) -> Outcome:
        self._dispatch.under_way.difference_update((step.path, step.folder))
        return Outcome(number, step.action, step.kept, step.path, 0, "refused", text)

    def _tell(self, one: Outcome) -> None:
        if one.state == "refused":
            self._dispatch.tell(ActionRefused(one.action, one.kept, one.path, one.text))
        elif one.state == "done":
            self._dispatch.tell(ActionTaken(one.id, one.action, one.kept, one.path, one.bytes))


def groups(steps: Sequence[Step], most: int) -> Iterator[list[Step]]:
    """Steps that can share their syncs: none is for the sake of a file that another one lets go."""
    group: list[Step] = []
    going: set[bytes] = set()
    kept: set[bytes] = set()
    size = 0
    for step in steps:
        full = len(group) >= most or size + step.gone.size > GROUP_BYTES
        if group and (full or step.kept in going or step.path in kept):
            yield group
            group, going, kept, size = [], set(), set(), 0
        group.append(step)
        going.add(step.path)
        kept.add(step.kept)
        size += step.gone.size
    if group:
        yield group


class Pace:
    """How far many actions are, told now and then to clients that listen."""

    def __init__(self, steps: Sequence[Step], tell: Callable[[DedupeProgress], None] | None) -> None:
        self._total, self._size = len(steps), sum(step.gone.size for step in steps)
        self._tell = tell
        self._done = self._before = 0
        self._next_word = 0.0

    def report(self, done: int, total: int) -> None:
        """Of the present file, which may be read more than once."""
        del total
        self._say(self._before + done)

    def next(self, group: Sequence[Step]) -> None:
        """The next group begins, after this one."""
        self._done += len(group)
        self._before += sum(step.gone.size for step in group)
        self._say(self._before)

    def _say(self, done: int) -> None:
        now = time.monotonic()
        if self._tell is not None and now >= self._next_word:
            self._next_word = now + _INTERVAL
            self._tell(DedupeProgress(self._done, self._total, min(done, self._size), self._size))


def counted(outcomes: Sequence[Outcome]) -> tuple[int, int, int, list[Outcome], int]:
    """Done, refused, bytes, the outcomes that fit into an answer with the refused first, and how many do not."""
    refused = [outcome for outcome in outcomes if outcome.state == "refused"]
    done = [outcome for outcome in outcomes if outcome.state == "done"]
    fitting, room = [], PAGE_BYTES
    for outcome in sorted(outcomes, key=lambda outcome: outcome.state != "refused"):
        room -= len(outcome.kept) + len(outcome.path) + len(outcome.text) + _OUTCOME
        if room < 0:
            break
        fitting.append(outcome)
    return len(done), len(refused), sum(outcome.bytes for outcome in done), fitting, len(outcomes) - len(fitting)
