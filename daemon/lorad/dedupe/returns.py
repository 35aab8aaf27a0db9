"""What is put aside: when it is given back, when it is freed, and which links of ours are led on (SPEC section 5).

For the core, which asks it at each turn. It decides from what the engine knows of names and weights; the service
carries it out, and every file is looked at again there.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import NamedTuple, Protocol

from loracore.identity import Identity
from lorad.dedupe.action.order import HELD, Result
from lorad.dedupe.action.registry import ACTIONS
from lorad.dedupe.places import Places
from lorad.library.keepers import is_marked
from lorad.watch import calls

#: Seconds after which a file is given back although something that may hold its weights is still being read.
_PATIENCE = 60.0
#: Seconds until what could not be freed or led on is tried again, and what could not be given back, as that is
#: missed meanwhile; the last one ever after.
_RETRIES = (5.0, 60.0, 600.0, 3600.0)
_SOON = (2.0, 5.0, 15.0, 60.0)
#: Actions that are freed at once, so that a request has its turn between.
_AT_ONCE = 256
#: Seconds between two looks at free space.
_SPACE = 10.0
#: Kept files of which each second is asked whether they are there.
_PULSE = 50

#: Layout and weight signature.
Weights = tuple[bytes, bytes]


class Keeper(Protocol):
    """A name in view that holds some weights."""

    @property
    def path(self) -> bytes: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def function(self) -> bytes | None: ...
    @property
    def config(self) -> bytes | None: ...


class Library(Protocol):
    """What the engine knows; see `lorad.index.engine.Engine`."""

    def keepers(self, layout: bytes, weights: bytes) -> Sequence[Keeper]: ...
    def unresolved(self, layout: bytes, weights: bytes, paths: Iterable[bytes]) -> str: ...
    def weights_hidden_at(self, hidden_path: bytes, *, unit: bool) -> Collection[Weights]: ...
    def is_hidden_alone(self, hidden_path: bytes, *, unit: bool) -> bool: ...
    def dirty_weights(self) -> Collection[Weights]: ...


class Standing(NamedTuple):
    """An action whose file is put aside, or (`freed`) a symbolic link of ours.

    `id` is negative for what an action has put aside that the journal does not know.
    """

    id: int
    action: str
    state: str
    path: bytes
    aside: bytes
    kept: bytes
    weights: frozenset[Weights]
    function: bytes | None
    config: bytes | None
    bytes: int
    hidden_at: float
    text: str
    unit: bool

    @classmethod
    def of(cls, result: Result, weights: Iterable[Weights]) -> Standing:
        return cls(
            result.id, result.action, result.state, result.path, result.aside, result.kept,
            frozenset(weights), result.function, result.config, result.bytes, result.hidden_at, result.text,
            result.unit,
        )  # fmt: skip

    def fits(self, keeper: Keeper) -> bool:
        """Whether a file of the same weights also does the same to a model, where that counts."""
        # Empty where an earlier version has not written it down.
        same_config = self.config in (b"", keeper.config) or ACTIONS[self.action].links
        return self.function in (b"", keeper.function) and same_config


class Wants(Protocol):
    """The service's methods that decisions go to; each says whether it was taken."""

    def give_back(self, wanted: Sequence[Standing], *, by_names: bool) -> bool: ...
    def retarget(self, number: int, path: bytes, identity: Identity) -> bool: ...
    def find_kept(self, number: int) -> bool: ...
    def follow_links(self, numbers: Sequence[int], names: Collection[bytes]) -> bool: ...
    def free_due(self, entries: Sequence[int], done: Callable[[list[Result]], None]) -> bool: ...


class Returns:
    """Actions in force, by the weights of what they have put aside. Times are of a clock that does not jump."""

    def __init__(self, service: Wants, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self.grace = 0.0
        #: Part of a disk that is to be free, 0 for none.
        self.free_below = 0.0
        self._actions: dict[int, Standing] = {}
        self._by_weights: dict[Weights, set[int]] = defaultdict(set)
        #: Weights to be looked at, and since when no file of them is in view.
        self._pending: dict[Weights, float | None] = {}
        #: Names that could keep these weights when they were last looked at: none is gone while it is there.
        self._kept: dict[Weights, set[bytes]] = {}
        #: What is to be given back, at the end of a look.
        self._missed: list[Standing] = []
        #: Actions that are being given back or led on, and after how many seconds that is tried again.
        self._asked: dict[int, tuple[float, ...]] = {}
        #: When a file that could not be freed is tried again, and how often it was.
        self._vain: dict[int, tuple[float, int]] = {}
        #: The same for one that could not be given back or led on.
        self._refused: dict[int, tuple[float, int]] = {}
        self._freeing = False
        self._next_space = 0.0
        #: Kept files that are still to be asked for in this round, and when some are.
        self._round: list[bytes] = []
        self._next_pulse = 0.0
        #: Symbolic links of ours by their names, and those that are not there any more.
        self._links: dict[bytes, int] = {}
        self._moved_links: set[int] = set()

    # What is in force

    def load(self) -> None:
        """Begin anew: the actions in force of the journal are put next."""
        self._actions.clear()
        self._by_weights.clear()
        self._asked.clear()
        self._refused.clear()
        self._pending.clear()
        self._links.clear()

    def put(self, result: Result, weights: Iterable[Weights]) -> None:
        """What came of an action on files of these weights, or of taking it back."""
        before = self._actions.pop(result.id, None)
        if before is not None:
            self._drop(before)
        self._asked.pop(result.id, None)
        self._refused.pop(result.id, None)
        linked = ACTIONS[result.action].symbolic and result.state == "freed"
        if result.state in HELD or linked:
            standing = Standing.of(result, weights)
            self._actions[standing.id] = standing
            if ACTIONS[standing.action].symbolic:
                self._links[standing.path] = standing.id
            for each in standing.weights:
                self._by_weights[each].add(standing.id)
                self._pending.setdefault(each, None)
        else:
            self._vain.pop(result.id, None)

    def refused(self, number: int) -> None:
        """It could not be given back or led on: it is looked at as a name of its weights changes, or later."""
        again = self._asked.pop(number, None)
        if again is not None:
            tried = self._refused.get(number, (0.0, 0))[1]
            self._refused[number] = self._clock() + again[min(tried, len(again) - 1)], tried + 1

    def retry(self) -> None:
        """Try again now what could not be given back or led on: a disk came back."""
        for number, (_, tried) in self._refused.items():
            self._refused[number] = 0.0, tried

    def _try_again(self) -> None:
        """Look again at the weights of what was refused a while ago."""
        now = self._clock()
        for number, (when, tried) in list(self._refused.items()):
            if when <= now:
                self._refused[number] = math.inf, tried
                for weights in self._actions[number].weights if number in self._actions else ():
                    self._pending.setdefault(weights, None)

    def gone(self, path: bytes) -> None:
        """A name is not there any more: if it was that of a link of ours, it may have been moved."""
        if path in self._links:
            self._moved_links.add(self._links[path])

    def follow_links(self, names: Collection[bytes]) -> None:
        """Have links of ours that are not at their names looked for under these, which symbolic links have now."""
        if self._moved_links and self._service.follow_links(sorted(self._moved_links), list(names)):
            self._moved_links.clear()

    def _drop(self, standing: Standing) -> None:
        self._links.pop(standing.path, None)
        for weights in standing.weights:
            numbers = self._by_weights[weights]
            numbers.discard(standing.id)
            if not numbers:
                del self._by_weights[weights]
                self._pending.pop(weights, None)
                self._kept.pop(weights, None)

    @property
    def held(self) -> Iterator[Standing]:
        """Actions whose file is put aside."""
        return (standing for standing in self._actions.values() if standing.state in HELD)

    def due(self, standing: Standing, ran: float) -> float | None:
        """Seconds until it is freed by itself, once lorad has run for `ran` seconds; None for never."""
        never = ACTIONS[standing.action].quarantines or standing.id < 0
        return None if never else max(0.0, standing.hidden_at + self.grace - ran)

    # Giving back and leading on

    def look(self, library: Library, places: Places, *, quiet: bool) -> None:
        """Decide about all weights of which a name was lost, gained or changed.

        `quiet`: nothing settles, is looked through or is read.
        """
        self._learn_weights(library, quiet=quiet)
        self._try_again()
        for weights in set(library.dirty_weights()) & self._by_weights.keys():
            self._pending.setdefault(weights, None)
        for weights in list(self._pending):
            since = self._pending[weights]
            if self._is_settled(library, places, weights, quiet=quiet, since=since):
                del self._pending[weights]
        self._show_missed()

    def _learn_weights(self, library: Library, *, quiet: bool) -> None:
        """Actions whose weights are not known: of an earlier version, or the catalogue was thrown away."""
        for one in [one for one in self.held if not one.weights and one.id not in self._asked]:
            if quiet and library.is_hidden_alone(one.aside, unit=one.unit) and not calls.may_be_there(one.kept):
                self._missed.append(one)
            elif weights := frozenset(library.weights_hidden_at(one.aside, unit=one.unit)):
                self._actions[one.id] = one._replace(weights=weights)
                for each in weights:
                    self._by_weights[each].add(one.id)
                    self._pending.setdefault(each, None)

    def _is_settled(
        self, library: Library, places: Places, weights: Weights, *, quiet: bool, since: float | None
    ) -> bool:
        """Decide about all actions on these weights; False where that is to be asked again."""
        standing = [self._actions[number] for number in sorted(self._by_weights[weights], reverse=True)]
        visible = library.keepers(*weights)
        counted = {one.kept for one in standing} | self._kept.get(weights, set())
        may_keep = [
            keeper
            for keeper in visible
            if places.may_keep(keeper.path, standing[0].path) and not _is_link(keeper.path)
        ]
        left = [keeper for keeper in visible if keeper in may_keep or keeper.path in counted]
        self._kept[weights] = {keeper.path for keeper in left}
        missed = [one for one in standing if one.id not in self._asked and not any(map(one.fits, left))]
        for one in standing:
            if one not in missed and ACTIONS[one.action].symbolic:
                self._lead_on(one, list(filter(one.fits, may_keep)))
        # What a link leads to need not be read for that.
        dangling = [one for one in missed if one.state not in HELD and not calls.may_be_there(one.kept)]
        missed = [one for one in missed if one.state in HELD]
        if not missed:
            self._pending[weights] = None
            return not dangling or (quiet and self._find_kept(library, weights, dangling))
        now = self._clock()
        since = self._pending[weights] = now if since is None else since
        names = {one.kept for one in missed if one.kept} | self._kept.get(weights, set())
        reason = library.unresolved(*weights, names)
        if reason == "away" or ((reason or not quiet) and now < since + _PATIENCE):
            return False
        self._missed += missed
        return True

    def missing_keepers(self) -> list[bytes]:
        """Kept names that are not found, of a few each second: the target of a followed link is not watched."""
        now = self._clock()
        if now < self._next_pulse:
            return []
        self._next_pulse = now + 1.0
        if not self._round:
            self._round = list(chain.from_iterable(self._kept.values()))
        part, self._round = self._round[:_PULSE], self._round[_PULSE:]
        return [path for path in part if not _exists(path)]

    def look_at_names(self) -> None:
        """Show again what is missed as far as names alone tell of it, while there is no catalogue."""
        for weights, numbers in self._by_weights.items():
            standing = [self._actions[number] for number in numbers]
            kept = {one.kept for one in standing if one.kept} | self._kept.get(weights, set())
            hidden = [one for one in standing if one.state in HELD and one.id not in self._asked]
            if hidden and not any(map(_may_be_there, kept)):
                self._missed += hidden
        self._show_missed(by_names=True)

    def _show_missed(self, *, by_names: bool = False) -> None:
        """Have given back what is missed; where too much waits, that is looked at again."""
        missed = list({one.id: one for one in self._missed}.values())
        self._missed.clear()
        for start in range(0, len(missed), _AT_ONCE):
            group = missed[start : start + _AT_ONCE]
            if self._service.give_back(group, by_names=by_names):
                self._asked |= dict.fromkeys((one.id for one in group), _SOON)
            else:
                self._pending |= dict.fromkeys(chain.from_iterable(one.weights for one in group))

    def _lead_on(self, one: Standing, keepers: Sequence[Keeper]) -> None:
        """Lead a symbolic link to where the kept file is now, if it is not where it was."""
        if not keepers or one.id in self._asked or any(keeper.path == one.kept for keeper in keepers):
            return
        best = min(keepers, key=lambda keeper: (is_marked(keeper.path), len(keeper.path), keeper.path))
        if self._service.retarget(one.id, best.path, best.identity):
            self._asked[one.id] = _RETRIES

    def _find_kept(self, library: Library, weights: Weights, dangling: Sequence[Standing]) -> bool:
        """Look whether the kept file of these links, which are all that is left, is among files not read yet."""
        if library.unresolved(*weights, [one.kept for one in dangling]) == "away":
            return False
        asked = [one.id for one in dangling if self._service.find_kept(one.id)]
        self._asked |= dict.fromkeys(asked, _RETRIES)
        return len(asked) == len(dangling)

    # Freeing

    def free_due(self, ran: float, roots: Sequence[bytes]) -> None:
        """Have freed what is due, once all roots were looked through. `ran`: seconds that lorad has run."""
        now = self._clock()
        if self._freeing:
            return
        due = [one for one in self.held if self.due(one, ran) == 0 and self._vain.get(one.id, (0.0, 0))[0] <= now]
        if self.free_below and now >= self._next_space:
            self._next_space = now + _SPACE
            due += self._for_space(roots, {one.id for one in due}, now)
        if due:
            batch = sorted(due, key=lambda one: (one.hidden_at, one.id))[:_AT_ONCE]
            self._freeing = self._service.free_due([one.id for one in batch], self._freed)

    def _freed(self, results: list[Result]) -> None:
        """What came of a batch; in the service's thread."""
        now = self._clock()
        for result in results:
            if result.state in HELD:
                tried = self._vain.get(result.id, (0.0, 0))[1]
                self._vain[result.id] = now + _RETRIES[min(tried, len(_RETRIES) - 1)], tried + 1
        self._freeing = False

    def _for_space(self, roots: Sequence[bytes], without: set[int], now: float) -> Iterator[Standing]:
        """The oldest files whose removal lets each disk have so much free space again."""
        missing: dict[int, int] = {}
        for root in roots:
            try:
                room = calls.do(root, os.statvfs, root)
                device = calls.stat(root).st_dev
            except OSError:
                continue
            missing[device] = int(self.free_below * room.f_blocks - room.f_bavail) * room.f_frsize
        for one in sorted(self.held, key=lambda one: (one.hidden_at, one.id)):
            if self.due(one, 0.0) is None or one.id in without or self._vain.get(one.id, (0.0, 0))[0] > now:
                continue
            try:
                device = calls.stat(one.aside, follow_symlinks=False).st_dev
            except OSError:
                continue
            if missing.get(device, 0) > 0:
                missing[device] -= one.bytes
                yield one


def _is_link(path: bytes) -> bool:
    """Whether it is known that a name is a symbolic link."""
    with suppress(calls.NoAnswer):
        return calls.do(path, os.path.islink, path)
    return False


def _exists(path: bytes) -> bool:
    """Whether a name leads to something, as far as its file system answers."""
    with suppress(calls.NoAnswer):
        return calls.do(path, os.path.exists, path)
    return True


def _may_be_there(path: bytes) -> bool:
    """Whether a name is there, or its folder is not, so that its disk may be away."""
    with suppress(OSError):
        return calls.may_be_there(path) or not calls.is_folder(os.path.dirname(path))
    return True
