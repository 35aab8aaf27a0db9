"""Freeing hidden files: when they are due, and having them freed.

`Due` decides, for the core; `Freeing` has it done, in the service's thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from loracore.control import ActionRefused, FileFreed, Freed, Outcome, Refusal
from loracore.errors import StateError
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.order import HELD, FreeOrder, Result
from lorad.dedupe.action.registry import ACTIONS
from lorad.dedupe.apply import GROUP, GROUP_BYTES, counted
from lorad.dedupe.candidates import Keepers, kept_for
from lorad.dedupe.dispatch import Dispatch, why_silent
from lorad.dedupe.process import Free
from lorad.dedupe.roots import Moved
from lorad.dedupe.standing import Asked, InForce, Standing, Wants
from lorad.watch import timed_calls

#: Seconds until what could not be freed is tried again; the last one ever after.
_AGAIN = (5.0, 60.0, 600.0, 3600.0)
#: Actions that are freed at once, so that a request has its turn between.
_AT_ONCE = 256
#: Seconds between two looks at free space.
_SPACE = 10.0


class Due:
    """What is freed by itself: after its grace, or for the sake of space."""

    def __init__(self, service: Wants, in_force: InForce, clock: Callable[[], float]) -> None:
        self._service = service
        self._in_force = in_force
        self._clock = clock
        #: Seconds of `[dedupe] grace`, and the part of a disk that is to be free, 0 for none.
        self.grace = 0.0
        self.free_below = 0.0
        self.asked = Asked(clock)
        self._under_way = False
        self._next_space = 0.0

    def after(self, standing: Standing, ran: float) -> float | None:
        """Seconds until it is freed by itself, once lorad has run for `ran` seconds; None for never."""
        never = ACTIONS[standing.action].quarantines or standing.id < 0
        return None if never else max(0.0, standing.hidden_at + self.grace - ran)

    def free(self, ran: float, roots: Sequence[bytes]) -> None:
        """Have freed what is due, once all roots were looked through. `ran`: seconds that lorad has run."""
        if self._under_way:
            return
        due = [one for one in self._candidates() if self.after(one, ran) == 0]
        now = self._clock()
        if self.free_below and now >= self._next_space:
            self._next_space = now + _SPACE
            due += self._for_space(roots, {one.id for one in due})
        if due:
            batch = [one.id for one in sorted(due, key=_age)[:_AT_ONCE]]
            self.asked.add(batch, _AGAIN)
            # It may be over before the service has said that it was taken.
            self._under_way = True
            if not self._service.free_due(batch, self._freed):
                self._under_way = False

    def _candidates(self) -> Iterator[Standing]:
        return (one for one in self._in_force.held if not self.asked.waits(one.id))

    def _freed(self, results: list[Result]) -> None:
        """What came of a batch; in the service's thread."""
        for result in results:
            if result.state in HELD:
                self.asked.failed(result.id)
        self._under_way = False

    def _for_space(self, roots: Sequence[bytes], without: set[int]) -> Iterator[Standing]:
        """The oldest files whose removal lets each disk have so much free space again."""
        missing: dict[int, int] = {}
        for root in roots:
            try:
                room = timed_calls.do(root, os.statvfs, root)
                device = timed_calls.stat(root).st_dev
            except OSError:
                continue
            missing[device] = int(self.free_below * room.f_blocks - room.f_bavail) * room.f_frsize
        for one in sorted(self._candidates(), key=_age):
            if self.after(one, 0.0) is None or one.id in without:
                continue
            try:
                device = timed_calls.stat(one.aside, follow_symlinks=False).st_dev
            except OSError:
                continue
            if missing.get(device, 0) > 0:
                missing[device] -= one.bytes
                yield one


def _age(one: Standing) -> tuple[float, int]:
    return one.hidden_at, one.id


class Freeing:
    """For the thread of `dispatch`."""

    def __init__(self, dispatch: Dispatch, moved: Moved, keepers: Keepers) -> None:
        self._dispatch = dispatch
        self._moved = moved
        self._keepers = keepers

    def on_request(self, ids: Sequence[int] | None) -> Freed | Refusal:
        """Free what these actions have hidden, or (None) all but what lies in quarantine."""
        entries = self._dispatch.history.entries(ids)
        if ids and not any(entries.values()):
            return Refusal("not-found", f"there is no action {ids[0]}; see the history")
        held = ("hidden", "waiting") if ids is None else HELD
        known = [entry for entry in entries.values() if entry is not None]
        outcomes = []
        for one in self.free((entry for entry in known if entry.state in held), by_itself=False):
            state = "done" if one.state in ("freed", "linked") else "refused"
            outcomes.append(Outcome(one.id, one.action, one.kept, one.path, one.bytes, state, one.text))
        for entry in known if ids is not None else ():
            if entry.state not in held:
                text = f"it is {entry.state}: nothing of it is put aside"
                paths = entry.kept.path, entry.gone.path
                outcomes.append(Outcome(entry.id, entry.action, *paths, 0, "nothing", text))
        return Freed(*counted(outcomes))

    def free(self, entries: Iterable[Entry | None], *, by_itself: bool) -> list[Result]:
        """Remove what these have hidden, as far as anything still is; what came of each."""
        results: list[Result] = []
        todo = []
        for entry in entries:
            if entry is None or entry.state not in HELD:
                continue
            if silent := why_silent(self._dispatch.aside_of(entry)):
                results.append(entry.result(silent))
            else:
                todo.append(entry)
        self._moved.find(todo)
        group: list[FreeOrder] = []
        size = 0
        for place, entry in enumerate(todo):
            self._dispatch.left = len(todo) - place
            sides, why = kept_for(self._keepers, entry, by_itself=by_itself)
            group.append(FreeOrder(entry.id, tuple(sides), why))
            size += entry.bytes
            if len(group) == GROUP or size > GROUP_BYTES or place == len(todo) - 1:
                try:
                    results += self._dispatch.ask(Free(group))
                except StateError as error:
                    self._dispatch.tell(ActionRefused("free", entry.kept.path, entry.gone.path, str(error)))
                    results += [each.result(str(error)) for each in todo[place + 1 - len(group) :]]
                    break
                group, size = [], 0
        self._dispatch.left = 0
        for result in results:
            if result.state in ("freed", "linked"):
                self._dispatch.tell(FileFreed(result.id, result.path, result.bytes))
        return results
