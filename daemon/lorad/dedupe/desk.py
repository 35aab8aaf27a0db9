"""Where plans become actions: one thread and, while there is something to do, one worker process.

It serves clients (`lorad.control.acting.Deduper`), and acts by itself on newcomers, by the configured policy.
What a plan says is as old as the catalogue; the worker looks at each file again before it touches it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from loracore.config import Config
from loracore.control import (
    PAGE_BYTES,
    ActionRefused,
    ActionTaken,
    ActionUndone,
    Answer,
    Applied,
    DedupeProgress,
    Event,
    HistoryEntry,
    Outcome,
    Refusal,
    Undone,
)
from loracore.errors import LoraError, StateError
from lorad.control.acting import Reply
from lorad.control.planning import resolved
from lorad.control.worker import Worker
from lorad.dedupe.deputy import Deputy
from lorad.dedupe.journal import FINAL, JOURNAL, Entry
from lorad.dedupe.orders import Order, Refused, Result, Side, Unsettled
from lorad.dedupe.past import Past
from lorad.dedupe.plan import Plan, Step
from lorad.dedupe.worker import Carry, TakeBack, Wish
from lorad.library.keepers import Copy, is_inside
from lorad.pipeline.protocol import Identity

#: Requests that may wait for the thread, and seconds after which a worker without work is let go.
_WAITING, _IDLE = 64, 30.0
#: Seconds until repair is tried again where something could not be brought to an end; the last one ever after.
_AGAIN = (60.0, 600.0, 3600.0)
#: Bytes that an outcome takes beside its paths and words.
_OUTCOME = 120
#: Seconds between two words about how far it is.
_INTERVAL = 0.2
#: Actions that can take the files beside one along.
_AWAY = ("quarantine", "delete")

Tell = Callable[[Event], None]


class Desk:
    """Carries plans out and takes actions back, one at a time.

    In its thread, `tell` hears what was done, and `relinked` what a kept file is before and after it got a name.
    """

    def __init__(
        self,
        state_dir: str,
        tell: Tell,
        relinked: Callable[[Identity, Identity], None] = lambda before, now: None,
    ) -> None:
        self._state_dir = state_dir
        self._tell = tell
        self._relinked = relinked
        self.past = Past(state_dir)
        self._roots: tuple[bytes, ...] = ()
        self._sidecars = "keep"
        self._deputy = Deputy(state_dir, self._mended)
        dismiss = self._deputy.dismiss
        self._worker = Worker("lorad-dedupe", _WAITING, idle=dismiss, last=dismiss, idle_seconds=_IDLE)
        self._stopping = threading.Event()
        self._timer: threading.Timer | None = None
        self._vain = 0
        #: What was last said of each action that waits, and of repair itself (0).
        self._said: dict[int, str] = {}
        #: Actions that are still to be taken, of what is under way.
        self.left = 0

    def use(self, config: Config) -> None:
        """Go by this configuration from now on. From any thread."""
        self._roots = tuple(map(resolved, config.watch.roots))
        self._sidecars = config.dedupe.sidecars

    def start(self) -> None:
        """Begin; what an earlier run was interrupted in is repaired first."""
        self._worker.start()
        self._worker.submit(self._repair)

    def stop(self, patience: float) -> None:
        """End after the present action, or at once after so many seconds: the journal knows where it was."""
        self._stopping.set()
        if self._timer is not None:
            self._timer.cancel()
        self._worker.stop(patience)
        self._deputy.kill()

    def submit(self, job: Callable[[], None]) -> bool:
        """Run something in the desk's thread; False when too much waits already."""
        return self._worker.submit(job)

    # What clients ask for: `lorad.control.acting.Deduper`

    def apply(self, plan: Plan, reply: Reply) -> None:
        self._promise(lambda: Applied(*_counted(self.carry_out(plan.steps, watched=True))), reply)

    def undo(self, ids: Sequence[int] | None, reply: Reply) -> None:
        self._promise(lambda: self._undone(ids), reply)

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

    def carry_out(
        self, steps: Sequence[Step], *, watched: bool, wanted: Callable[[], bool] = lambda: True
    ) -> list[Outcome]:
        """Take these steps, in their order, as long as they are `wanted`; the outcomes of those that were.

        `watched`: somebody waits for it, and hears how far it is.
        """
        pace = _Pace(len(steps), sum(step.gone.size for step in steps), self._tell if watched else None)
        #: What inodes are since our own actions changed them.
        ours: dict[tuple[int, int], Identity] = {}
        outcomes: list[Outcome] = []
        broken: StateError | None = None
        for place, step in enumerate(steps):
            if not wanted():
                break
            self.left = len(steps) - place
            try:
                order = _order(step, self._roots, self._sidecars, ours)
                result = self._ask(Carry(order), pace, broken)
            except (Refused, StateError) as error:
                broken = error if isinstance(error, StateError) else None
                outcomes.append(self._done_before(step) or self._refused(step, error))
                kept_now = error.kept_now if isinstance(error, Refused) else None
            else:
                outcomes.append(self._taken(result))
                kept_now = result.kept_now
                _note_gone(step, ours)
            if kept_now is not None:
                before = ours.get((kept_now.dev, kept_now.ino)) or Identity(*step.keeper[1:6])
                ours[kept_now.dev, kept_now.ino] = kept_now
                if kept_now != before:
                    self._relinked(before, kept_now)
            pace.next(step.gone.size)
        self.left = 0
        return outcomes

    def _undone(self, ids: Sequence[int] | None) -> Undone | Refusal:
        entries = self.past.entries(ids)
        if ids and not any(entries.values()):
            return Refusal("not-found", f"there is no action {ids[0]}; see the history")
        return Undone(*_counted(self._take_back(entries)))

    def _take_back(self, entries: Mapping[int, Entry | None]) -> list[Outcome]:
        """Undo these actions, the newest first, since a later one may stand on what an earlier one left."""
        sizes = {number: entry.gone.identity.size for number, entry in entries.items() if entry is not None}
        pace = _Pace(len(entries), sum(sizes.values()), self._tell)
        outcomes: list[Outcome] = []
        broken: StateError | None = None
        for place, (number, entry) in enumerate(entries.items()):
            self.left = len(entries) - place
            action, kept, path = (entry.action, entry.kept.path, entry.gone.path) if entry else ("", b"", b"")
            try:
                result = self._ask(TakeBack(number), pace, broken)
            except (Refused, StateError) as error:
                broken = error if isinstance(error, StateError) else None
                outcomes.append(Outcome(number, action, kept, path, 0, "refused", str(error)))
            else:
                outcomes.append(Outcome(number, action, kept, path, result.bytes, "done", result.text))
                self._tell(ActionUndone(number, path))
            pace.next(sizes.get(number, 0))
        self.left = 0
        return outcomes

    def _ask(self, wish: Wish, pace: _Pace, broken: StateError | None) -> Result:
        """Have the worker do it; `broken` is why it can do nothing, where that is known."""
        if broken is not None:
            raise broken
        if self._stopping.is_set():
            raise Refused("lorad is being stopped; ask again when it is back")
        try:
            return self._deputy.carry(wish, pace.far)
        except Unsettled:
            self._repair_later(first=True)
            raise

    def _taken(self, result: Result) -> Outcome:
        if result.state != "done":
            return Outcome(0, result.action, result.kept, result.path, 0, "nothing", result.text)
        self._tell(ActionTaken(result.id, result.action, result.kept, result.path, result.bytes))
        return Outcome(result.id, result.action, result.kept, result.path, result.bytes, "done", result.text)

    def _done_before(self, step: Step) -> Outcome | None:
        """The outcome of a step that was taken already: the plan was made before the catalogue knew of it."""
        with suppress(StateError):
            number = self.past.action_of(step)
            if number is not None:
                text = f"action {number} did it already"
                return Outcome(0, step.action, step.kept, step.path, 0, "nothing", text)
        return None

    def _refused(self, step: Step, error: LoraError) -> Outcome:
        self._tell(ActionRefused(step.action, step.kept, step.path, str(error)))
        return Outcome(0, step.action, step.kept, step.path, 0, "refused", str(error))

    def _repair(self) -> None:
        """Bring to an end what an earlier run was killed in, or what could not be brought to one then."""
        self._timer = None
        if self._stopping.is_set() or not self.past.is_unfinished():
            return
        try:
            self._deputy.dismiss()
            self._deputy.start()
        except StateError as error:
            if self._is_news(0, str(error)):
                path = os.fsencode(os.path.join(self._state_dir, JOURNAL))
                self._tell(ActionRefused("repair", b"", path, str(error)))
            self._repair_later()

    def _repair_later(self, *, first: bool = False) -> None:
        """Try again by and by; what keeps an action from its end is a full disk, or one that is not mounted."""
        if first:
            self._vain = 0
        if self._timer is not None:
            if not first:
                return
            self._timer.cancel()
        delay = _AGAIN[min(self._vain, len(_AGAIN) - 1)]
        self._vain += 1
        self._timer = threading.Timer(delay, self._worker.submit, [self._repair])
        self._timer.daemon = True
        self._timer.start()

    def _is_news(self, number: int, text: str) -> bool:
        news = self._said.get(number) != text
        self._said[number] = text
        return news

    def _mended(self, results: list[Result]) -> None:
        waiting = [result for result in results if result.state not in FINAL]
        self._said = {number: text for number, text in self._said.items() if number in {one.id for one in waiting}}
        if waiting:
            self._repair_later()
        else:
            self._vain = 0
        for result in results:
            if result.state not in FINAL and not self._is_news(result.id, result.text):
                continue
            match result.state:
                case "done":
                    self._tell(ActionTaken(result.id, result.action, result.kept, result.path, result.bytes))
                case "undone":
                    self._tell(ActionUndone(result.id, result.path))
                case _:
                    self._tell(ActionRefused(result.action, result.kept, result.path, result.text))

    def _promise(self, answer: Callable[[], Answer], reply: Reply) -> None:
        """Have something answered in the desk's thread, whatever happens."""

        def job() -> None:
            try:
                reply(answer())
            except Exception as error:
                reply(Refusal("failed", str(error) or type(error).__name__))
                if not isinstance(error, LoraError):
                    raise

        if not self._worker.submit(job):
            reply(Refusal("busy", "too much is to be done already; try again"))


class _Pace:
    """How far many actions are, told now and then to those who listen."""

    def __init__(self, total: int, size: int, tell: Tell | None) -> None:
        self._total, self._size = total, size
        self._tell = tell
        self._done = self._before = 0
        self._next_word = 0.0

    def far(self, done: int, total: int) -> None:
        """Of the present action, which may read its file more than once."""
        del total
        self._say(self._before + done)

    def next(self, size: int) -> None:
        """The next action begins, after one on a file of this size."""
        self._done += 1
        self._before += size
        self._say(self._before)

    def _say(self, done: int) -> None:
        now = time.monotonic()
        if self._tell is not None and now >= self._next_word:
            self._next_word = now + _INTERVAL
            self._tell(DedupeProgress(self._done, self._total, min(done, self._size), self._size))


def _order(step: Step, roots: Sequence[bytes], sidecars: str, ours: Mapping[tuple[int, int], Identity]) -> Order:
    """Raises Refused for a file that no root holds any more, and for a folder."""
    if step.folder:
        raise Refused.about(step.path, "its folder goes as a whole or not at all, which is not done yet")

    def side(path: bytes, copy: Copy) -> Side:
        inside = [root for root in roots if is_inside(path, root)]
        if not inside:
            raise Refused.about(path, "it lies in no watched folder any more; see [watch] roots")
        known = Identity(copy.dev, copy.ino, copy.size, copy.mtime_ns, copy.ctime_ns)
        return Side(path, ours.get((copy.dev, copy.ino), known), max(inside, key=len))

    return Order(
        action=step.action,
        level=step.level,
        kept=side(step.kept, step.keeper),
        gone=side(step.path, step.gone),
        sidecars=sidecars if step.action in _AWAY else "keep",
    )


def _note_gone(step: Step, ours: dict[tuple[int, int], Identity]) -> None:
    """A link less changes the ctime of an inode, and nothing else of it."""
    for path in step.gone.paths if step.path != step.gone.paths[-1] else ():
        with suppress(OSError):
            now = Identity.of(os.lstat(path))
            if (now.dev, now.ino, now.size, now.mtime_ns) == step.gone[1:5]:
                ours[now.dev, now.ino] = now
                return


def _counted(outcomes: Sequence[Outcome]) -> tuple[int, int, int, list[Outcome], int]:
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
