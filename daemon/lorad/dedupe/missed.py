"""Which hidden files are missed (SPEC section 5): no file of their weights and function that may keep is left.

For the core, which asks at each turn. It decides from what the engine knows of names and weights; the service
gives them back (`giving_back`), and every file is looked at again there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain

import msgspec

from lorad.dedupe.action.order import Result
from lorad.dedupe.freeing import Due
from lorad.dedupe.places import Places
from lorad.dedupe.standing import Asked, InForce, Library, Standing, Wants, Weights
from lorad.dedupe.symlinks import Links
from lorad.watch import timed_calls

#: Seconds after which a file is given back although something that may hold its weights is still being read.
_PATIENCE = 60.0
#: Seconds until what could not be given back is tried again, as it is missed meanwhile; the last one ever after.
_SOON = (2.0, 5.0, 15.0, 60.0)
#: Files that are given back at once, so that a request has its turn between.
_AT_ONCE = 256
#: Kept files of which each second is asked whether they are there.
_PULSE = 50


class Missed:
    """Actions in force, by the weights of what they have hidden. Times are of a clock that does not jump."""

    def __init__(self, service: Wants, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._in_force = InForce()
        #: Actions that are being given back or led on.
        self._asked = Asked(clock)
        self.links = Links(service, self._in_force, self._asked)
        self.freeing = Due(service, self._in_force, clock)
        #: Weights to be looked at, and since when no file of them is in view.
        self._pending: dict[Weights, float | None] = {}
        #: Names that could keep these weights when they were last looked at: none is gone while it is there.
        self._kept: dict[Weights, set[bytes]] = {}
        #: What is to be given back, at the end of a look.
        self._missed: list[Standing] = []
        #: Kept files that are still to be asked for in this round, and when some are.
        self._round: list[bytes] = []
        self._next_pulse = 0.0

    @property
    def held(self) -> Iterator[Standing]:
        """Actions whose file is hidden."""
        return self._in_force.held

    # What is in force

    def load(self) -> None:
        """Begin anew: the actions in force of the journal are put next."""
        self._in_force.clear()
        self._asked.clear()
        self._pending.clear()

    def put(self, result: Result, weights: Iterable[Weights]) -> None:
        """What came of an action on files of these weights, or of taking it back."""
        for left in self._in_force.drop(result.id):
            self._pending.pop(left, None)
            self._kept.pop(left, None)
        self._asked.done(result.id)
        standing = Standing.of(result, weights)
        if standing.is_held or (standing.is_link and standing.state == "freed"):
            self._add(standing)
        else:
            self.freeing.asked.done(result.id)

    def _add(self, standing: Standing) -> None:
        self._in_force.add(standing)
        self._look_at(standing.holds)

    def _look_at(self, weights: Iterable[Weights]) -> None:
        for each in weights:
            self._pending.setdefault(each, None)

    def refused(self, number: int) -> None:
        """It could not be given back or led on: it is looked at as a name of its weights changes, or later."""
        self._asked.failed(number)

    def retry(self) -> None:
        """Try again now what could not be given back or led on: a disk came back."""
        self._asked.hurry()

    # Giving back

    def look(self, library: Library, places: Places, *, quiet: bool) -> None:
        """Decide about all weights of which a name was lost, gained or changed.

        `quiet`: nothing settles, is looked through or is read.
        """
        self._learn_weights(library, quiet=quiet)
        actions = self._in_force.actions
        for number in self._asked.due():
            self._look_at(actions[number].holds if number in actions else ())
        self._look_at(set(library.dirty_weights()) & self._in_force.by_weights.keys())
        for weights, since in list(self._pending.items()):
            if self._is_settled(library, places, weights, quiet=quiet, since=since):
                del self._pending[weights]
        self._show_missed()

    def _learn_weights(self, library: Library, *, quiet: bool) -> None:
        """Actions whose weights are not known: of an earlier version, or the catalogue was thrown away."""
        for one in [one for one in self.held if not one.holds and one.id not in self._asked]:
            if (
                quiet
                and library.is_hidden_alone(one.aside, unit=one.unit)
                and not timed_calls.may_be_there(one.kept)
            ):
                self._missed.append(one)
            elif weights := frozenset(library.weights_hidden_at(one.aside, unit=one.unit)):
                self._add(msgspec.structs.replace(one, holds=weights))

    def _is_settled(
        self, library: Library, places: Places, weights: Weights, *, quiet: bool, since: float | None
    ) -> bool:
        """Decide about all actions on these weights; False where that is to be asked again."""
        standing = self._in_force.of(weights)
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
            if one not in missed and one.is_link:
                self.links.lead_on(one, list(filter(one.fits, may_keep)))
        # What a link leads to need not be read for that.
        dangling = [one for one in missed if not one.is_held and not timed_calls.may_be_there(one.kept)]
        missed = [one for one in missed if one.is_held]
        if not missed:
            self._pending[weights] = None
            return not dangling or (quiet and self.links.find_kept(library, weights, dangling))
        now = self._clock()
        since = self._pending[weights] = now if since is None else since
        reason = library.unresolved(*weights, self._names_of(weights, missed))
        if reason == "away" or ((reason or not quiet) and now < since + _PATIENCE):
            return False
        self._missed += missed
        return True

    def _names_of(self, weights: Weights, standing: Iterable[Standing]) -> set[bytes]:
        """The names that were kept for these actions, or could have been."""
        return {one.kept for one in standing if one.kept} | self._kept.get(weights, set())

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
        """Show again what is missed as far as names alone say so, while there is no catalogue."""
        for weights in self._in_force.by_weights:
            standing = self._in_force.of(weights)
            hidden = [one for one in standing if one.is_held and one.id not in self._asked]
            if hidden and not any(map(_may_be_there, self._names_of(weights, standing))):
                self._missed += hidden
        self._show_missed(by_names=True)

    def _show_missed(self, *, by_names: bool = False) -> None:
        """Have given back what is missed; where too much waits, that is looked at again."""
        missed = list({one.id: one for one in self._missed}.values())
        self._missed.clear()
        for start in range(0, len(missed), _AT_ONCE):
            group = missed[start : start + _AT_ONCE]
            if self._service.give_back(group, by_names=by_names):
                self._asked.add((one.id for one in group), _SOON)
            else:
                self._pending |= dict.fromkeys(chain.from_iterable(one.holds for one in group))


def _is_link(path: bytes) -> bool:
    """Whether it is known that a name is a symbolic link."""
    with suppress(timed_calls.NoAnswer):
        return timed_calls.do(path, os.path.islink, path)
    return False


def _exists(path: bytes) -> bool:
    """Whether a name leads to something, as far as its file system answers."""
    with suppress(timed_calls.NoAnswer):
        return timed_calls.do(path, os.path.exists, path)
    return True


def _may_be_there(path: bytes) -> bool:
    """Whether a name is there, or its folder is not, so that its disk may be away."""
    with suppress(OSError):
        return timed_calls.may_be_there(path) or not timed_calls.is_folder(os.path.dirname(path))
    return True
