"""Where decisions become actions: one thread and, while there is something to do, one process that acts.

It serves clients (`lorad.control.dedupe_handlers.Deduper`), and what the core decides by itself: newcomers, files
to be freed or given back. What comes of it waits here until the core takes it, since only that knows what names
lead to.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial

import msgspec

from loracore import causes
from loracore.config import Config
from loracore.control import (
    ActionRefused,
    ActionTaken,
    ActionUndone,
    Answer,
    Applied,
    Event,
    FileFreed,
    FileGivenBack,
    Freed,
    HiddenFile,
    HistoryEntry,
    Outcome,
    Refusal,
    Reply,
    Undone,
)
from loracore.errors import LoraError, StateError
from loracore.identity import Identity
from lorad.catalog.views import connect, weights_at
from lorad.dedupe.action import hidden as aside
from lorad.dedupe.action.journal import Entry
from lorad.dedupe.action.order import HELD, FreeOrder, Order, Result, Side
from lorad.dedupe.action.registry import ACTIONS
from lorad.dedupe.action.undo import bring_back
from lorad.dedupe.groups import GROUP, GROUP_BYTES, Pace, counted, groups
from lorad.dedupe.history import ActionHistory
from lorad.dedupe.interrupted import Repair
from lorad.dedupe.places import Places
from lorad.dedupe.plan import Plan, Step
from lorad.dedupe.planner import resolved
from lorad.dedupe.process import ActingProcess, Apply, Clock, Follow, Free, GiveBack, Note, Retarget, Undo, Wish
from lorad.dedupe.returns import Standing
from lorad.dedupe.rootlock import RootLocks, holder_of
from lorad.library.keepers import is_inside
from lorad.watch import calls
from lorad.watch.scanner import HIDDEN
from lorad.workers.thread import Worker

#: Requests that may wait for the thread, and seconds after which a process without work is let go.
_WAITING, _IDLE = 256, 30.0

Tell = Callable[[Event], None]
#: Files that may keep the weights of an action, the best first; asked in the service's thread.
Keepers = Callable[[Entry, bool], Sequence[Side]]


class Service:
    """Carries plans out, frees, gives back and takes actions back, one group at a time.

    `tell` is called with what happened, `wake` when the core has results to take. Both from its thread.
    """

    def __init__(  # noqa: PLR0917 - what it needs of the core
        self,
        state_dir: str,
        tell: Tell,
        wake: Callable[[], None],
        keepers: Keepers,
        places: Places,
        lock_by: Callable[[RootLocks], None],
        hidden: Callable[[Sequence[int] | None], Sequence[HiddenFile]],
        *,
        acting: Callable[[str, Callable[[list[Result]], None]], ActingProcess] = ActingProcess,
        worker: Callable[..., Worker] = Worker,
    ) -> None:
        self._tell = tell
        self._wake = wake
        self._keepers = keepers
        self._places = places
        self._lock_by = lock_by
        #: Of the roots, once lorad acts in them.
        self._locks: RootLocks | None = None
        self._acts = False
        #: What actions have put aside, as the core knows it.
        self.hidden = hidden
        self.past = ActionHistory(state_dir)
        self._roots: tuple[bytes, ...] = ()
        self._sidecars = "keep"
        self._state_dir = state_dir
        self._process = acting(state_dir, self._repaired)
        dismiss = self._process.dismiss
        self._worker = worker("lorad-dedupe", _WAITING, idle=dismiss, last=dismiss, idle_seconds=_IDLE)
        self._repair = Repair(self._process, self.past, self._worker.submit, tell)
        self._stopping = threading.Event()
        self._results: deque[Result] = deque()
        #: Names that an action is under way on, until the core has taken what came of it.
        self._under_way: set[bytes] = set()
        #: Why each file could not be given back when that was last said.
        self._said: dict[int, str] = {}
        #: Seconds that lorad has run, as the core counts them.
        self.clock = 0.0
        #: Actions that are still to be taken, of what is under way.
        self.left = 0

    def use(self, config: Config) -> None:
        """Go by this configuration from now on. From any thread."""
        self._roots = tuple(map(resolved, config.watch.roots))
        self._sidecars = config.dedupe.sidecars
        self._acts = config.dedupe.action != "report"
        self._worker.submit(self._hold_roots)

    def start(self) -> None:
        """Begin; what an earlier run was interrupted in is repaired first."""
        self._worker.start()
        self._worker.submit(self._repair.begin)

    def stop(self, patience: float) -> None:
        """End after the present group, or at once after so many seconds: the journal knows where it was."""
        self._stopping.set()
        self._repair.stop()
        self._worker.stop(patience)
        self._process.kill()
        if self._locks is not None:
            self._locks.close()

    @property
    def token(self) -> str:
        return self._process.token

    # What clients ask for: `lorad.control.dedupe_handlers.Deduper`

    def apply(self, plan: Plan, reply: Reply, *, now: bool) -> None:
        self._promise(lambda: Applied(*counted(self._carry_out(plan.steps, watched=True, now=now))), reply)

    def undo(self, ids: Sequence[int] | None, reply: Reply) -> None:
        self._promise(lambda: self._undone(ids), reply)

    def free(self, ids: Sequence[int] | None, reply: Reply) -> None:
        self._promise(lambda: self._freed(ids), reply)

    def history(self, after: int, most: int, reply: Callable[[Sequence[HistoryEntry] | Refusal], None]) -> None:
        try:
            entries = self.past.history(after, most)
        except LoraError as error:
            reply(Refusal("failed", str(error)))
        else:
            reply(entries)

    def savings(self, possible_bytes: int, reply: Reply) -> None:
        try:
            savings = self.past.savings(possible_bytes)
        except LoraError as error:
            reply(Refusal("failed", str(error)))
        else:
            reply(savings)

    # What the core wants

    def take(self) -> Iterator[Result]:
        """What came of actions since this was asked last. Call `settled` with each once its names are in place."""
        while self._results:
            yield self._results.popleft()

    @property
    def repaired(self) -> bool:
        """Whether what an earlier run was interrupted in was seen to."""
        return self._repair.is_done

    def in_force(self) -> list[Result]:
        """Actions that have something put aside, and links of ours. Raises StateError."""
        return [
            msgspec.structs.replace(entry.result(), aside=self.aside_of(entry))
            for entry in self.past.in_state(*HELD, "freed")
            if entry.state in HELD or entry.kind.symbolic
        ]

    def aside_of(self, entry: Entry) -> bytes:
        """Where a file was put aside."""
        return aside.path_of(self._state_dir, self.past.token(), entry)

    def look_for(self, numbers: Sequence[int]) -> bool:
        """Look in all roots for files that were put aside and are not where they were: their folder was moved."""
        return self._worker.submit(lambda: self._look_for(set(numbers)))

    def side(self, path: bytes, identity: Identity) -> Side:
        """A file of the library for an order. Raises LoraError for one that no root holds any more."""
        inside = [root for root in self._roots if is_inside(path, root)]
        if not inside:
            raise LoraError(f"{os.fsdecode(path)}: it lies in no watched folder any more; see [watch] roots")
        return Side(path, identity, max(inside, key=len))

    def settled(self, result: Result) -> None:
        """The core knows what the names of a result lead to."""
        self._under_way.difference_update((result.path, result.aside, result.shown))

    def is_under_way(self, path: bytes) -> bool:
        """Whether a name changes by our own doing just now."""
        return path in self._under_way or os.path.dirname(path) in self._under_way

    def act(
        self, steps: Sequence[Step], wanted: Callable[[], bool], done: Callable[[list[Outcome]], None]
    ) -> bool:
        """Take these steps of newcomers as long as they are `wanted`; False where too much waits."""
        return self._see_to(
            lambda: done(self._carry_out(steps, watched=False, wanted=wanted)), lambda reason: done([])
        )

    def give_back(self, wanted: Sequence[Standing], *, by_names: bool) -> bool:
        """Show again what these have put aside. `by_names`: at once by their names, whatever the journal says."""
        self._under_way.update(path for one in wanted for path in (one.path, one.aside))

        def refuse(reason: str) -> None:
            refused = (Result(one.id, "", b"", one.path, 0, "refused", reason, aside=one.aside) for one in wanted)
            self._results += refused
            self._wake()

        return self._see_to(lambda: self._give_back(wanted, by_names=by_names), refuse)

    def free_due(self, entries: Sequence[int], done: Callable[[list[Result]], None]) -> bool:
        """Free what these actions have put aside, as its grace is over."""

        def put_off(reason: str) -> None:
            done([Result(number, "", b"", b"", 0, "waiting", reason) for number in entries])

        return self._see_to(lambda: done(self._free(self.past.entries(entries).values(), by_itself=True)), put_off)

    def _see_to(self, job: Callable[[], None], failed: Callable[[str], None]) -> bool:
        """Have something done in the service's thread. Who waits for its end hears of one, whatever happens."""

        def run() -> None:
            try:
                job()
            except (LoraError, OSError, sqlite3.Error) as error:
                self._tell(ActionRefused("", b"", b"", str(error)))
                failed(str(error))
            except Exception as error:
                failed(str(error))
                raise

        return self._worker.submit(run)

    def _find_moved(self, entries: Sequence[Entry]) -> None:
        """Look for those that are not where they were put aside."""
        missing = {entry.id for entry in entries if not calls.may_be_there(self.aside_of(entry))}
        if missing:
            self._look_for(missing)

    def _look_for(self, wanted: set[int]) -> None:
        """Write down where these lie now, or that they are lost."""
        entries = {number: entry for number, entry in self.past.entries(list(wanted)).items() if entry is not None}
        found, unusable = aside.find(self._roots, self.past.token(), entries)
        for number, entry in entries.items():
            path = found.get(number)
            if path is None and aside.shown_at(entry.gone.path, entry.gone.identity.ino):
                # It was given back while the journal could not be written.
                self._asked(GiveBack([number]))
            elif path is not None:
                folder, hidden = os.path.split(path)
                match = HIDDEN.fullmatch(hidden) if hidden != entry.aside else None
                name = os.path.join(folder, match["name"] if match else os.path.basename(entry.gone.path))
                state = "hidden" if entry.state == "lost" else entry.state
                with suppress(LoraError, OSError):
                    self._asked(Note(number, state, "", self.side(name, Identity.of(os.lstat(path))), hidden))
            elif entry.state != "lost" and not unusable.get(number) and aside.is_lost(entry):
                why = "it was removed from where it was put aside"
                if self._asked(Note(number, "lost", why)):
                    self._tell(ActionRefused("give back", entry.kept.path, entry.gone.path, why))

    def retarget(self, number: int, path: bytes, identity: Identity) -> bool:
        """Lead the symbolic link of an action to where the kept file is now."""
        return self._see_to(lambda: self._retarget(number, path, identity), partial(self._refuse, number))

    def find_kept(self, number: int) -> bool:
        """Lead the link of a file that was freed to one that holds its layers; its weights may not be read yet."""
        return self._see_to(lambda: self._find_kept(number), partial(self._refuse, number))

    def follow_links(self, numbers: Sequence[int], names: Collection[bytes]) -> bool:
        """Look under these names for symbolic links of ours that were moved, and go with them."""
        return self._see_to(lambda: self._follow_links(numbers, names), lambda reason: None)

    def _follow_links(self, numbers: Sequence[int], names: Collection[bytes]) -> None:
        self._find_moved([entry for entry in self.past.entries(numbers).values() if entry and entry.state in HELD])
        entries = [
            entry for entry in self.past.entries(numbers).values() if entry and entry.state in (*HELD, "freed")
        ]
        by_inode = {entry.link: entry for entry in entries if entry.link}
        # One that was moved with its folder has its name already.
        by_name = {entry.gone.path: entry for entry in entries if aside.is_link(entry.gone.path)}
        for path in {*by_name, *names}:
            with suppress(LoraError, OSError):
                entry = by_name.get(path) or by_inode.get(calls.stat(path, follow_symlinks=False).st_ino)
                if entry is not None:
                    self._asked(Follow(entry.id, self.side(path, entry.gone.identity)))

    def note(self, number: int, state: str, text: str) -> bool:
        """Write down what was seen of a file that is put aside."""
        return self._worker.submit(lambda: self._asked(Note(number, state, text)))

    def keep_clock(self) -> bool:
        return self._worker.submit(lambda: self._asked(Clock(self.clock)))

    # In its thread

    def _carry_out(
        self,
        steps: Sequence[Step],
        *,
        watched: bool,
        now: bool = False,
        wanted: Callable[[], bool] = lambda: True,
    ) -> list[Outcome]:
        """Take these steps, in their order, as long as they are `wanted`; the outcomes of those that were."""
        self._hold_roots(on_request=bool(steps))
        pace = Pace(steps, self._tell if watched else None)
        outcomes: list[Outcome] = []
        broken = ""
        for group in groups(steps):
            if not wanted():
                break
            self.left = len(steps) - len(outcomes)
            orders: list[tuple[Step, Order]] = []
            held = self._weights_at([step.path for step in group])
            for step in group:
                try:
                    orders.append((step, self._order(step, held.get(step.path, (b"", b"")))))
                except LoraError as error:
                    outcomes.append(self._refused(step, str(error)))
            if not broken:
                try:
                    results = self._ask(Apply([order for _, order in orders], now, self.clock), pace)
                except StateError as error:
                    broken = str(error)
            if broken:
                outcomes += [self._refused(step, broken) for step, _ in orders]
            elif not results and orders:
                outcomes += [self._after_death(step) for step, _ in orders]
            else:
                outcomes += [self._taken(step, result) for (step, _), result in zip(orders, results, strict=True)]
            pace.next(group)
        self.left = 0
        if not self._acts:
            self._hold_roots()
        return outcomes

    def _weights_at(self, paths: Sequence[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
        """The layout and weights that these names lead to, by the catalogue."""
        try:
            with closing(connect(self._state_dir)) as db:
                return weights_at(db, paths)
        except sqlite3.Error:
            return {}

    def _undone(self, ids: Sequence[int] | None) -> Undone | Refusal:
        """Undo these actions, the newest first, since a later one may stand on what an earlier one left."""
        entries = self.past.entries(ids)
        if ids and not any(entries.values()):
            return Refusal("not-found", f"there is no action {ids[0]}; see the history")
        outcomes = [
            Outcome(number, "", b"", b"", 0, "refused", f"there is no action {number}; see the history")
            for number, entry in entries.items()
            if entry is None
        ]
        known = []
        for entry in entries.values():
            if entry is not None and (silent := _why_silent(entry.gone.path)):
                outcomes.append(self._undo_outcome(entry, None, silent))
            elif entry is not None:
                known.append(entry)
        self._find_moved([entry for entry in known if entry.state in (*HELD, "lost")])
        for begin in range(0, len(known), GROUP):
            self.left = len(known) - begin
            group = known[begin : begin + GROUP]
            self._under_way.update(entry.gone.path for entry in group)
            sources = {
                entry.id: self._kept_for(entry, by_itself=False)
                for entry in group
                if entry.state not in (*HELD, "shared")
            }
            try:
                results = {result.id: result for result in self._ask(Undo([entry.id for entry in group], sources))}
            except StateError as error:
                results, reason = {}, str(error)
            else:
                reason = "the process that acts on files died meanwhile; try again"
            outcomes += [self._undo_outcome(entry, results.get(entry.id), reason) for entry in group]
            self._release(entry.gone.path for entry in group)
        self.left = 0
        return Undone(*counted(outcomes))

    def _undo_outcome(self, entry: Entry, result: Result | None, reason: str) -> Outcome:
        state = {"undone": "done"}.get(result.state, result.state) if result else "refused"
        if state == "done":
            self._tell(ActionUndone(entry.id, entry.gone.path))
        text = result.text if result else reason
        size = result.bytes if result and state == "done" else 0
        return Outcome(entry.id, entry.action, entry.kept.path, entry.gone.path, size, state, text)

    def _freed(self, ids: Sequence[int] | None) -> Freed | Refusal:
        """Free what these actions have put aside, or (None) all but what lies in quarantine."""
        entries = self.past.entries(ids)
        if ids and not any(entries.values()):
            return Refusal("not-found", f"there is no action {ids[0]}; see the history")
        held = ("hidden", "waiting") if ids is None else HELD
        wanted = [entry for entry in entries.values() if entry is not None and entry.state in held]
        results = self._free(wanted, by_itself=False)
        outcomes = [
            Outcome(
                result.id,
                result.action,
                result.kept,
                result.path,
                result.bytes,
                _outcome_state(result),
                result.text,
            )
            for result in results
        ]
        for number, entry in entries.items():
            if ids is not None and entry is not None and entry.state not in held:
                text = f"it is {entry.state}: nothing of it is put aside"
                outcomes.append(
                    Outcome(number, entry.action, entry.kept.path, entry.gone.path, 0, "nothing", text)
                )
        return Freed(*counted(outcomes))

    def _free(self, entries: Iterable[Entry | None], *, by_itself: bool) -> list[Result]:
        results: list[Result] = []
        group: list[FreeOrder] = []
        size = 0
        todo = []
        for entry in entries:
            if entry is not None and entry.state in HELD:
                silent = _why_silent(self.aside_of(entry))
                results += [entry.result(silent)] if silent else []
                todo += [entry] if not silent else []
        self._find_moved(todo)
        for place, entry in enumerate(todo):
            self.left = len(todo) - place
            group.append(FreeOrder(entry.id, tuple(self._kept_for(entry, by_itself=by_itself))))
            size += entry.bytes
            if len(group) == GROUP or size > GROUP_BYTES or place == len(todo) - 1:
                try:
                    results += self._ask(Free(group))
                except StateError as error:
                    self._tell(ActionRefused("free", entry.kept.path, entry.gone.path, str(error)))
                    results += [each.result(str(error)) for each in todo[place + 1 - len(group) :]]
                    break
                group, size = [], 0
        self.left = 0
        for result in results:
            if result.state in ("freed", "linked"):
                self._tell(FileFreed(result.id, result.path, result.bytes))
        return results

    def _give_back(self, wanted: Sequence[Standing], *, by_names: bool) -> None:
        entries: dict[int, Entry | None] = {}
        with suppress(StateError):
            entries = {} if by_names else self.past.entries([one.id for one in wanted if one.id > 0])
        known = []
        for one in wanted:
            entry = entries.get(one.id)
            reason = _why_silent(one.aside)
            if entry is None and ACTIONS[one.action].quarantines:
                reason = reason or "the journal does not know it any more; put a backup of that in its place"
            if reason:
                refused = Result(one.id, one.action, b"", one.path, 0, "refused", reason, aside=one.aside)
                self._results.append(refused)
            elif entry is None:
                # The journal was removed, or cannot be read.
                self._results.append(self._brought_back(one))
            else:
                known.append(entry)
        self._find_moved(known)
        if known:
            self._asked(GiveBack([entry.id for entry in known]), given_back=True)
        self._release(name for one in wanted for name in (one.path, one.aside))

    def _release(self, names: Iterable[bytes]) -> None:
        """Nothing is under way any more on names, wherever their files were found: they are looked at again."""
        self._results += [Result(0, "", b"", name, 0, "nothing") for name in names]
        self._wake()

    def _retarget(self, number: int, path: bytes, identity: Identity) -> None:
        self._lead_on(number, [self.side(path, identity)], prove=False)

    def _refuse(self, number: int, reason: str) -> None:
        self._results.append(Result(number, "", b"", b"", 0, "refused", reason))
        self._wake()

    def _brought_back(self, one: Standing) -> Result:
        """Give a file its name back by names alone, without a journal that knows of it."""
        try:
            shown = bring_back(self._root_to_act_in(one.path), one.path, one.aside)
        except (LoraError, OSError) as error:
            return Result(one.id, "", b"", one.path, 0, "refused", str(error), aside=one.aside)
        self._tell(FileGivenBack(max(one.id, 0), one.path, shown))
        return Result(one.id, one.action, one.kept, one.path, 0, "given_back", aside=one.aside, shown=shown)

    def _root_to_act_in(self, path: bytes) -> bytes:
        """The root that a name lies in. Raises LoraError where there is none, or another lorad acts in it."""
        root = max((root for root in self._roots if is_inside(path, root)), key=len, default=b"")
        holder = holder_of(os.path.dirname(path))
        if not root or (holder is not None and not holder.ours):
            raise LoraError(str(holder) if root else "it lies in no watched folder any more")
        return root

    def _find_kept(self, number: int) -> None:
        entry = self.past.entries([number])[number]
        self._lead_on(number, self._kept_for(entry, by_itself=True) if entry is not None else (), prove=True)

    def _kept_for(self, entry: Entry, *, by_itself: bool) -> list[Side]:
        """Files that may keep what an action has put aside; none where the catalogue cannot be asked."""
        try:
            return list(self._keepers(entry, by_itself))
        except (LoraError, OSError, sqlite3.Error):
            return []

    def _lead_on(self, number: int, sides: Sequence[Side], *, prove: bool) -> None:
        """Lead a link to the first of these that it may be led to."""
        entry = self.past.entries([number])[number]
        silent = _why_silent(entry.gone.path) if entry is not None else ""
        if silent or not any(self._asked(Retarget(number, side, prove=prove)) for side in sides):
            self._refuse(number, silent or "no file of its weights is known")

    def _asked(self, wish: Wish, *, given_back: bool = False) -> bool:
        """Have a wish of the core carried out; False where nothing was done."""
        try:
            results = self._ask(wish)
        except StateError as error:
            self._tell(ActionRefused("", b"", b"", str(error)))
            numbers = wish.numbers if isinstance(wish, GiveBack) else []
            numbers = [wish.number] if isinstance(wish, Retarget) else numbers
            self._results += [Result(number, "", b"", b"", 0, "refused", str(error)) for number in numbers]
            self._wake()
            return False
        for result in results if given_back else ():
            if result.state == "given_back":
                self._said.pop(result.id, None)
                self._tell(FileGivenBack(result.id, result.path, result.shown))
            elif self._said.get(result.id) != result.text:
                # It is tried again and again.
                self._said[result.id] = result.text
                self._tell(ActionRefused("give back", result.kept, result.path, result.text))
        return any(result.state != "refused" for result in results)

    def _ask(self, wish: Wish, pace: Pace | None = None) -> list[Result]:
        """Have the process do it, and keep what came of it for the core. Raises StateError."""
        if self._stopping.is_set() and not isinstance(wish, Clock):
            raise StateError("lorad is being stopped; ask again when it is back")
        if isinstance(wish, Apply):
            self._under_way.update(order.folder or order.gone.path for order in wish.orders)
        try:
            results = self._process.ask(wish, pace.report) if pace else self._process.ask(wish)
        except StateError:
            # What was begun is brought to an end as soon as the journal can be written.
            self._repair.later(first=True)
            raise
        self._results += results
        if any(result.state in ("planned", "freeing", "undoing") for result in results):
            # Only a new process repairs.
            self._process.dismiss()
            self._repair.later(first=True)
        self._wake()
        return results

    def _hold_roots(self, *, on_request: bool = False) -> None:
        """Let no other lorad act in the roots while this one does."""
        acts = self._acts or on_request
        try:
            if acts and self._locks is None:
                if not self._process.token:
                    self._process.start()
                self._locks = RootLocks(self._process.token)
                self._lock_by(self._locks)
        except StateError as error:
            self._tell(ActionRefused("", b"", b"", str(error)))
        if self._locks is not None:
            for root, why in self._locks.use(self._roots if acts else ()).items():
                self._tell(ActionRefused("", b"", root, f"{why}; until then this one only reports"))

    def _order(self, step: Step, held: tuple[bytes, bytes]) -> Order:
        """`held`: layout and weights. Raises LoraError for what may not be kept, or lies in no root any more."""
        reason = self._places.why_not(step.kept, step.path) or _why_silent(step.path)
        reason = reason or (self._locks.refusal(os.path.dirname(step.path)) if self._locks else "")
        if reason:
            raise LoraError(reason)
        layout, weights = held
        return Order(
            action=step.action,
            level=step.level,
            folder=step.folder,
            layout=layout,
            weights=weights,
            kept=self.side(step.kept, step.keeper.identity),
            gone=self.side(step.path, step.gone.identity),
            sidecars=self._sidecars if not ACTIONS[step.action].links else "keep",
            bytes=step.bytes,
        )

    def _taken(self, step: Step, result: Result) -> Outcome:
        if result.state == "refused":
            self._under_way.discard(step.path)
            return self._refused(step, result.text, result.id)
        if result.state == "nothing":
            self._under_way.discard(step.path)
            return Outcome(0, result.action, result.kept, result.path, 0, "nothing", result.text)
        self._tell(ActionTaken(result.id, result.action, result.kept, result.path, result.bytes))
        return Outcome(result.id, result.action, result.kept, result.path, result.bytes, "done", result.text)

    def _refused(self, step: Step, text: str, number: int = 0) -> Outcome:
        self._under_way.discard(step.path)
        self._tell(ActionRefused(step.action, step.kept, step.path, text))
        return Outcome(number, step.action, step.kept, step.path, 0, "refused", text)

    def _after_death(self, step: Step) -> Outcome:
        """The process died over this group, and what was begun was repaired."""
        return self._refused(step, "the process that acts on files died meanwhile; try again")

    def _repaired(self, results: list[Result]) -> None:
        """What became of actions that were interrupted; called when the process starts."""
        self._results += results
        self._repair.came(results)
        self._wake()

    def _promise(self, answer: Callable[[], Answer], reply: Reply) -> None:
        """Have something answered in the service's thread, whatever happens."""

        def job() -> None:
            try:
                reply(answer())
            except Exception as error:
                reply(Refusal("failed", str(error) or type(error).__name__))
                if not isinstance(error, LoraError):
                    raise

        if not self._worker.submit(job):
            reply(Refusal("busy", "too much is to be done already; try again"))


def _why_silent(path: bytes) -> str:
    """Why nothing can be done now about a name: a call to its file system would not return."""
    return "" if calls.answers(os.path.dirname(path)) else causes.NO_ANSWER


def _outcome_state(result: Result) -> str:
    return "done" if result.state in ("freed", "linked") else "refused"
