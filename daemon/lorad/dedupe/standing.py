"""Actions in force as the core knows them: those whose file is hidden, and symbolic links of ours."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from loracore.identity import Identity
from lorad.dedupe.action.order import HELD, Result
from lorad.dedupe.action.registry import ACTIONS

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
    """What the engine knows; see `lorad.index.holders.Holders`."""

    def keepers(self, layout: bytes, weights: bytes) -> Sequence[Keeper]: ...
    def unresolved(self, layout: bytes, weights: bytes, paths: Iterable[bytes]) -> str: ...
    def weights_hidden_at(self, hidden_path: bytes, *, unit: bool) -> Collection[Weights]: ...
    def is_hidden_alone(self, hidden_path: bytes, *, unit: bool) -> bool: ...
    def dirty_weights(self) -> Collection[Weights]: ...


class Standing(Result, frozen=True):
    """What came of an action whose file is hidden, or (`freed`) that has left a symbolic link of ours.

    `id` is negative for what an action has hidden that the journal does not know. `holds`: the weights of that.
    """

    holds: frozenset[Weights] = frozenset()

    @classmethod
    def of(cls, result: Result, weights: Iterable[Weights]) -> Standing:
        return cls(**msgspec.structs.asdict(result), holds=frozenset(weights))

    @property
    def is_held(self) -> bool:
        """Whether its file is hidden."""
        return self.state in HELD

    @property
    def is_link(self) -> bool:
        """Whether a symbolic link of ours stands at its name."""
        return ACTIONS[self.action].symbolic

    def fits(self, keeper: Keeper) -> bool:
        """Whether a file of the same weights also does the same to a model, where that counts."""
        # Empty where an earlier version has not written it down.
        same_config = self.config in (b"", keeper.config) or ACTIONS[self.action].links
        return self.function in (b"", keeper.function) and same_config


class Wants(Protocol):
    """What is asked of the service; each method says whether it was taken."""

    def give_back(self, wanted: Sequence[Standing], *, by_names: bool) -> bool: ...
    def retarget(self, number: int, path: bytes, identity: Identity) -> bool: ...
    def find_kept(self, number: int) -> bool: ...
    def follow_links(self, numbers: Sequence[int], names: Collection[bytes]) -> bool: ...
    def free_due(self, entries: Sequence[int], done: Callable[[list[Result]], None]) -> bool: ...


class InForce:
    """The actions in force by their numbers, by the weights of what they have hidden, and links by their names."""

    def __init__(self) -> None:
        self.actions: dict[int, Standing] = {}
        self.by_weights: dict[Weights, set[int]] = defaultdict(set)
        self.links: dict[bytes, int] = {}

    @property
    def held(self) -> Iterator[Standing]:
        """Actions whose file is hidden."""
        return (standing for standing in self.actions.values() if standing.is_held)

    def of(self, weights: Weights) -> list[Standing]:
        """Those on these weights, the newest first."""
        return [self.actions[number] for number in sorted(self.by_weights[weights], reverse=True)]

    def add(self, standing: Standing) -> None:
        self.actions[standing.id] = standing
        if standing.is_link:
            self.links[standing.path] = standing.id
        for each in standing.holds:
            self.by_weights[each].add(standing.id)

    def drop(self, number: int) -> list[Weights]:
        """Forget one; the weights that no other one is on."""
        standing = self.actions.pop(number, None)
        left = []
        if standing is not None:
            self.links.pop(standing.path, None)
            for weights in standing.holds:
                self.by_weights[weights].discard(number)
                if not self.by_weights[weights]:
                    del self.by_weights[weights]
                    left.append(weights)
        return left

    def clear(self) -> None:
        self.actions.clear()
        self.by_weights.clear()
        self.links.clear()


class Asked:
    """What the service is asked for just now, and when what it could not do is asked for again.

    Both by the numbers of actions. Times are of `clock`, which does not jump.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: After how many seconds each is asked for again; the last one ever after.
        self._now: dict[int, Sequence[float]] = {}
        #: When each is due again, and how often it was asked for in vain.
        self._vain: dict[int, tuple[float, int]] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._now

    def add(self, numbers: Iterable[int], again: Sequence[float]) -> None:
        self._now |= dict.fromkeys(numbers, again)

    def done(self, number: int) -> None:
        self._now.pop(number, None)
        self._vain.pop(number, None)

    def failed(self, number: int) -> None:
        again = self._now.pop(number, None)
        if again is not None:
            tried = self._vain.get(number, (0.0, 0))[1]
            self._vain[number] = self._clock() + again[min(tried, len(again) - 1)], tried + 1

    def waits(self, number: int) -> bool:
        """Whether it failed, and is not due again."""
        return self._vain.get(number, (0.0, 0))[0] > self._clock()

    def due(self) -> list[int]:
        """Those that are due again, each once."""
        now = self._clock()
        due = [number for number, (when, _) in self._vain.items() if when <= now]
        for number in due:
            self._vain[number] = math.inf, self._vain[number][1]
        return due

    def hurry(self) -> None:
        """All that failed are due now."""
        self._vain = {number: (0.0, tried) for number, (_, tried) in self._vain.items()}

    def clear(self) -> None:
        self._now.clear()
        self._vain.clear()
