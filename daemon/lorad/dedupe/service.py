"""Where decisions become actions: what the core and clients want is done here, one thing after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import msgspec

from loracore.config import Config
from loracore.control import Applied, Event, HiddenFile, HistoryEntry, Outcome, Refusal, Reply
from loracore.errors import LoraError
from loracore.identity import Identity
from lorad.dedupe.action.order import HELD, Result
from lorad.dedupe.apply import GROUP, Applying, counted
from lorad.dedupe.candidates import Keepers
from lorad.dedupe.dispatch import Dispatch
from lorad.dedupe.freeing import Freeing
from lorad.dedupe.giving_back import GivingBack, Undoing
from lorad.dedupe.interrupted import AGAIN
from lorad.dedupe.places import Places
from lorad.dedupe.plan import Plan, Step
from lorad.dedupe.process import ActionProcess, Clock
from lorad.dedupe.roots import Moved, Roots
from lorad.dedupe.standing import Standing
from lorad.dedupe.symlinks import Leading
from lorad.workers.thread import Worker

_T = TypeVar("_T")


class Requests:
    """What clients ask for: `lorad.control.dedupe_handlers.Deduper`."""

    def __init__(
        self,
        dispatch: Dispatch,
        applying: Applying,
        undoing: Undoing,
        freeing: Freeing,
        hidden: Callable[[Sequence[int] | None], Sequence[HiddenFile]],
    ) -> None:
        self._dispatch = dispatch
        self._applying = applying
        self._undoing = undoing
        self._freeing = freeing
        #: What actions have hidden, as the core knows it.
        self.hidden = hidden

    def apply(self, plan: Plan, reply: Reply, *, now: bool) -> None:
        def answer() -> Applied:
            return Applied(*counted(self._applying.carry_out(plan.steps, watched=True, now=now)))

        self._dispatch.answer(answer, reply)

    def undo(self, ids: Sequence[int] | None, reply: Reply) -> None:
        self._dispatch.answer(lambda: self._undoing.on_request(ids), reply)

    def free(self, ids: Sequence[int] | None, reply: Reply) -> None:
        self._dispatch.answer(lambda: self._freeing.on_request(ids), reply)

    def history(self, after: int, most: int, reply: Callable[[Sequence[HistoryEntry] | Refusal], None]) -> None:
        reply(_or_refusal(lambda: self._dispatch.history.history(after, most)))

    def savings(self, possible_bytes: int, reply: Reply) -> None:
        reply(_or_refusal(lambda: self._dispatch.history.savings(possible_bytes)))


def _or_refusal(ask: Callable[[], _T]) -> _T | Refusal:
    try:
        return ask()
    except LoraError as error:
        return Refusal("failed", str(error))


class Service:
    """What the core wants; each method says whether it was taken, or too much waits.

    What comes of it is taken from `dispatch`; `tell` and `wake` are called as it says.
    """

    def __init__(  # noqa: PLR0917 - what it needs of the core
        self,
        state_dir: str,
        tell: Callable[[Event], None],
        wake: Callable[[], None],
        keepers: Keepers,
        places: Places,
        hidden: Callable[[Sequence[int] | None], Sequence[HiddenFile]],
        *,
        acting: Callable[[str, Callable[[list[Result]], None]], ActionProcess] = ActionProcess,
        worker: Callable[..., Worker] = Worker,
        again: Sequence[float] = AGAIN,
        group: int = GROUP,
    ) -> None:
        self.dispatch = Dispatch(state_dir, tell, wake, acting=acting, worker=worker, again=again)
        self.roots = Roots(self.dispatch)
        self._moved = Moved(self.dispatch, self.roots)
        self._applying = Applying(self.dispatch, self.roots, places, group)
        self._freeing = Freeing(self.dispatch, self._moved, keepers)
        self._giving_back = GivingBack(self.dispatch, self.roots, self._moved)
        self._leading = Leading(self.dispatch, self.roots, self._moved, keepers)
        undoing = Undoing(self.dispatch, self._moved, keepers)
        self.requests = Requests(self.dispatch, self._applying, undoing, self._freeing, hidden)

    def use(self, config: Config) -> None:
        """Go by this configuration from now on. From any thread."""
        self._applying.sidecars = config.dedupe.sidecars
        self.roots.use(config)

    def stop(self, patience: float) -> None:
        """See `Dispatch.stop`."""
        self.dispatch.stop(patience)
        self.roots.close()

    def in_force(self) -> list[Result]:
        """Actions that have something hidden, and links of ours. Raises StateError."""
        return [
            msgspec.structs.replace(entry.result(), aside=self.dispatch.aside_of(entry))
            for entry in self.dispatch.history.in_state(*HELD, "freed")
            if entry.state in HELD or entry.kind.symbolic
        ]

    def act(
        self, steps: Sequence[Step], wanted: Callable[[], bool], done: Callable[[list[Outcome]], None]
    ) -> bool:
        """Take these steps of newcomers as long as they are `wanted`."""
        return self.dispatch.run(
            lambda: done(self._applying.carry_out(steps, wanted=wanted)), lambda reason: done([])
        )

    def give_back(self, wanted: Sequence[Standing], *, by_names: bool) -> bool:
        """Show again what these have hidden; see `GivingBack.give_back`."""
        self.dispatch.under_way.update(path for one in wanted for path in (one.path, one.aside))
        return self.dispatch.run(
            lambda: self._giving_back.give_back(wanted, by_names=by_names),
            lambda reason: self._giving_back.refuse(wanted, reason),
        )

    def free_due(self, entries: Sequence[int], done: Callable[[list[Result]], None]) -> bool:
        """Free what these actions have hidden, as its grace is over."""
        return self.dispatch.run(
            lambda: done(self._freeing.free(self.dispatch.history.entries(entries).values(), by_itself=True)),
            lambda reason: done([Result(number, "", b"", b"", 0, "waiting", reason) for number in entries]),
        )

    def retarget(self, number: int, path: bytes, identity: Identity) -> bool:
        """Lead the symbolic link of an action to where the kept file is now."""
        return self.dispatch.run(
            lambda: self._leading.lead_on(number, [self.roots.side(path, identity)]),
            lambda reason: self._leading.refuse(number, reason),
        )

    def find_kept(self, number: int) -> bool:
        """Lead the link of a file that was freed to one that holds its layers."""
        return self.dispatch.run(
            lambda: self._leading.find_kept(number), lambda reason: self._leading.refuse(number, reason)
        )

    def follow_links(self, numbers: Sequence[int], names: Collection[bytes]) -> bool:
        """Look under these names for symbolic links of ours that were moved, and go with them."""
        return self.dispatch.run(lambda: self._leading.follow(numbers, names), lambda reason: None)

    def look_for(self, numbers: Sequence[int]) -> bool:
        """Look in all roots for hidden files that are not where they were: their folder was moved."""
        return self.dispatch.submit(lambda: self._moved.look_for(numbers))

    def keep_clock(self) -> bool:
        """Write down how long lorad has run."""
        return self.dispatch.submit(lambda: self.dispatch.attempt(Clock(self.dispatch.clock)))
