"""What is missed is given back, and asked for again where that was refused (SPEC section 5, "Giving back")."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from loracore.identity import Identity
from lorad.dedupe.action.order import Result
from lorad.dedupe.missed import Missed
from lorad.dedupe.places import Places
from lorad.dedupe.standing import Keeper, Standing, Weights

WEIGHTS: Weights = (b"layout", b"weights")
HIDDEN = Result(
    1, "delete", b"/lib/kept", b"/lib/gone", 7, "hidden", aside=b"/lib/.gone.aside-0-1", layout=WEIGHTS[0],
    weights=WEIGHTS[1],
)  # fmt: skip


class File(NamedTuple):
    """A name in view."""

    path: bytes
    function: bytes | None = None
    config: bytes | None = None
    identity: Identity = Identity(1, 2, 3, 4, 5)


@dataclass
class Library:
    """What the engine knows, as these tests need it."""

    files: list[File] = field(default_factory=list)
    reason: str = ""
    dirty: set[Weights] = field(default_factory=set)

    def keepers(self, layout: bytes, weights: bytes) -> Sequence[Keeper]:
        assert (layout, weights) == WEIGHTS
        return self.files

    def unresolved(self, layout: bytes, weights: bytes, paths: Iterable[bytes]) -> str:
        return self.reason

    def weights_hidden_at(self, hidden_path: bytes, *, unit: bool) -> Collection[Weights]:
        return ()

    def is_hidden_alone(self, hidden_path: bytes, *, unit: bool) -> bool:
        return False

    def dirty_weights(self) -> Collection[Weights]:
        dirty, self.dirty = self.dirty, set()
        return dirty


@dataclass
class Asked:
    """What is asked of the service."""

    given_back: list[int] = field(default_factory=list)
    led: list[bytes] = field(default_factory=list)
    brought: list[int] = field(default_factory=list)
    sought: list[int] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)

    def give_back(self, wanted: Sequence[Standing], *, by_names: bool) -> bool:
        (self.brought if by_names else self.given_back).extend(one.id for one in wanted)
        return True

    def retarget(self, number: int, path: bytes, identity: Identity) -> bool:
        self.led.append(path)
        return True

    def find_kept(self, number: int) -> bool:
        self.sought.append(number)
        return True

    def free_due(self, entries: Sequence[int], done: Callable[[list[Result]], None]) -> bool:
        self.freed += entries
        return True


class Moment:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Moment:
    return Moment()


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def missed(asked: Asked, clock: Moment) -> Missed:
    made = Missed(asked, clock)
    made.put(HIDDEN, [WEIGHTS])
    return made


class AllPlaces(Places):
    """All of them may keep: these files are nowhere."""

    def may_keep(self, kept: bytes, gone: bytes) -> bool:
        return True


PLACES = AllPlaces()


def test_what_was_refused_is_asked_again(missed: Missed, asked: Asked, clock: Moment) -> None:
    """Later each time; once it is back, no more."""
    library = Library()
    for times, moment in enumerate((0, 2, 7, 22, 82, 142), start=1):
        for now in (moment - 1, moment):
            clock.now = float(max(0, now))
            missed.look(library, PLACES, quiet=True)
            assert len(asked.given_back) == (times if now == moment else max(1, times - 1)), now
        missed.refused(1)
    missed.put(Result(1, "delete", b"", b"", 0, "given_back"), [WEIGHTS])
    clock.now = 99_999.0
    missed.look(library, PLACES, quiet=True)
    assert len(asked.given_back) == 6


def test_a_link_that_could_not_be_led_on_is_tried_again(asked: Asked, clock: Moment) -> None:
    """As where somebody writes to the kept file just then."""
    missed = Missed(asked, clock)
    link = Result(1, "symlink", b"/lib/kept", b"/lib/gone", 7, "freed")
    missed.put(link, [WEIGHTS])
    library = Library([File(b"/lib/renamed")])
    for moment, times in [(0, 1), (4, 1), (5, 2)]:
        clock.now = float(moment)
        missed.look(library, PLACES, quiet=True)
        assert asked.led == [b"/lib/renamed"] * times
        missed.refused(1)


def test_a_link_to_nothing_is_led_to_what_is_not_read_yet(asked: Asked, clock: Moment) -> None:
    """Once all is quiet and the kept file is gone rather than away; again later, where nothing was found."""
    missed = Missed(asked, clock)
    missed.put(Result(1, "symlink", b"/lib/kept", b"/lib/gone", 7, "freed"), [WEIGHTS])
    for library, quiet, times in [(Library(), False, 0), (Library(reason="away"), True, 0), (Library(), True, 1)]:
        missed.look(library, PLACES, quiet=quiet)
        assert asked.sought == [1] * times
    missed.refused(1)
    for moment, times in [(4, 1), (5, 2)]:
        clock.now = float(moment)
        missed.look(Library(), PLACES, quiet=True)
        assert asked.sought == [1] * times


def test_a_link_that_leads_somewhere_is_left_alone(asked: Asked, clock: Moment, tmp_path: Path) -> None:
    """Nobody need have read what it leads to."""
    kept = tmp_path / "kept"
    kept.touch()
    missed = Missed(asked, clock)
    missed.put(Result(1, "symlink", os.fsencode(kept), b"/lib/gone", 7, "freed"), [WEIGHTS])
    missed.look(Library(), PLACES, quiet=True)
    assert not asked.sought
    kept.unlink()
    missed.look(Library(dirty={WEIGHTS}), PLACES, quiet=True)
    assert asked.sought == [1]


class AtOnce(Asked):
    """Has freed, or tried to, before it says that it was asked."""

    def free_due(self, entries: Sequence[int], done: Callable[[list[Result]], None]) -> bool:
        super().free_due(entries, done)
        done([msgspec.structs.replace(HIDDEN, state="waiting")])
        return True


def test_what_could_not_be_freed_is_tried_again(clock: Moment) -> None:
    """After 5 seconds, and a minute, also where the service was done at once."""
    asked = AtOnce()
    missed = Missed(asked, clock)
    missed.put(HIDDEN, [WEIGHTS])
    for moment, times in [(0, 1), (4, 1), (5, 2), (64, 2), (65, 3)]:
        clock.now = float(moment)
        missed.freeing.free(1.0, ())
        assert asked.freed == [1] * times, moment


@pytest.mark.parametrize("reason", ["", "reading", "settling", "away"])
def test_what_is_not_certain_is_waited_for(missed: Missed, asked: Asked, clock: Moment, reason: str) -> None:
    """After a minute at the latest, but for what is away."""
    library = Library(reason=reason)
    missed.look(library, PLACES, quiet=False)
    assert not asked.given_back
    clock.now = 59.0
    missed.look(library, PLACES, quiet=reason == "away")
    assert not asked.given_back
    clock.now = 60.0
    missed.look(library, PLACES, quiet=False)
    assert bool(asked.given_back) == (reason != "away")


@pytest.mark.parametrize(
    ("ours", "theirs", "action", "fits"),
    [
        ((None, None), (None, None), "delete", True),
        ((b"f", b"c"), (b"f", b"c"), "delete", True),
        ((b"f", b"c"), (b"g", b"c"), "symlink", False),
        ((b"f", b"c"), (b"f", b"d"), "symlink", True),
        ((b"f", b"c"), (b"f", b"d"), "delete", False),
        ((None, None), (b"f", None), "delete", False),
        # An earlier version has not written down what it was.
        ((b"", b""), (b"f", b"c"), "quarantine", True),
    ],
)
def test_what_does_something_else_to_a_model_keeps_nothing(
    ours: tuple[bytes | None, bytes | None],
    theirs: tuple[bytes | None, bytes | None],
    action: str,
    fits: bool,
) -> None:
    """By header and configuration; a link in place takes the configuration beside it."""
    result = Result(1, action, b"/k", b"/g", 7, "hidden", function=ours[0], config=ours[1])
    assert Standing.of(result, [WEIGHTS]).fits(File(b"/k", *theirs)) == fits
