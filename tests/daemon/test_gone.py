"""What is gone and comes back is known, also by a lorad that was started in between."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lorad import gone as module
from lorad.catalog import Catalog
from lorad.gone import Gone
from lorad.pipeline.protocol import Identity

NAMES = (b"/models/a", b"/models/\xff")
#: An inode number that needs all 64 bits.
INODE = Identity(2**63 + 1, 2**64 - 10, 100, 5, 6)
WEIGHTS, OTHERS = b"w" * 32, b"o" * 32


@pytest.fixture(params=[False, True], ids=["at once", "after a start"])
def later(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Gone], Gone]:
    """The same a moment later, or what another lorad finds in the catalogue."""

    def after_a_start(one: Gone) -> Gone:
        one.save()
        catalog = one._catalog
        catalog.commit(new_generation=False)
        catalog.close()
        other = Gone(Catalog(os.path.dirname(catalog.path)))
        other.load()
        return other

    return after_a_start if request.param else lambda one: one


@pytest.fixture
def gone(tmp_path: Path) -> Gone:
    return Gone(Catalog(str(tmp_path)))


def test_an_inode_comes_back_once(gone: Gone, later: Callable[[Gone], Gone]) -> None:
    gone.went(INODE, NAMES, WEIGHTS)
    gone = later(gone)
    assert gone.back(INODE) == (NAMES, WEIGHTS)
    gone = later(gone)
    assert gone.back(INODE) == ((), None)


def test_another_inode_is_not_it(gone: Gone, later: Callable[[Gone], Gone]) -> None:
    """One of another size or mtime may have been written to: its weights will tell."""
    gone.went(INODE, NAMES, WEIGHTS)
    gone = later(gone)
    assert gone.back(Identity(1, INODE.ino, 100, 5, 6)) == ((), None)
    assert gone.back(Identity(INODE.dev, INODE.ino, 100, 4, 6)) == ((), WEIGHTS)


def test_a_name_holds_what_it_held(gone: Gone, later: Callable[[Gone], Gone]) -> None:
    """The same weights are no news under it, others are."""
    for name in NAMES:
        gone.lost(name, OTHERS)
        gone.lost(name, WEIGHTS)
    gone = later(gone)
    assert all(gone.held(name, WEIGHTS) for name in NAMES)
    assert not any(gone.held(name, OTHERS) for name in NAMES)
    assert not gone.held(b"/models/c", WEIGHTS)


@pytest.mark.parametrize("first", ["lost", "took"])
@pytest.mark.parametrize("before", [False, True], ids=["", "after it was lost before"])
def test_what_we_took_may_come_again(
    gone: Gone, later: Callable[[Gone], Gone], first: str, *, before: bool
) -> None:
    """In whichever order it is told of."""
    if before:
        gone.lost(NAMES[0], WEIGHTS)
    for step in [first, *{"lost", "took"} - {first}]:
        if step == "lost":
            gone.lost(NAMES[0], WEIGHTS)
        else:
            gone.took(NAMES[0], still=step == first)
    gone = later(gone)
    assert not gone.held(NAMES[0], WEIGHTS)
    gone.lost(NAMES[0], WEIGHTS)
    assert later(gone).held(NAMES[0], WEIGHTS)


def test_not_for_ever(gone: Gone, later: Callable[[Gone], Gone], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too old goes when more comes, and the oldest name where there are too many."""
    now = 1_000_000.0
    monkeypatch.setattr(module.time, "time", lambda: now)
    gone.lost(NAMES[0], WEIGHTS)
    gone.went(INODE, NAMES, WEIGHTS)
    now += module._HELD
    gone.lost(NAMES[1], WEIGHTS)
    assert gone.back(INODE) == ((), None)
    gone = later(gone)
    assert [gone.held(name, WEIGHTS) for name in NAMES] == [False, True]
    monkeypatch.setattr(module, "_NAMES", 1)
    gone.lost(NAMES[0], WEIGHTS)
    gone = later(gone)
    assert [gone.held(name, WEIGHTS) for name in NAMES] == [True, False]
