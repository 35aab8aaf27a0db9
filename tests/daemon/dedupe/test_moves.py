"""A copy that may be half of a move waits, and what is done to it does not rely on the other half."""

from __future__ import annotations

import pytest

from lorad.dedupe.moves import Moves, undoably
from lorad.dedupe.plan import Step
from lorad.library.keepers import Copy

NOW, SECOND = 10**18, 10**9
HOUR = 3600 * SECOND


def step(action: str = "delete", *, dev: int = 2, mtime_ns: int = 7 * SECOND, ctime_ns: int = NOW) -> Step:
    kept = Copy((b"/one/a",), 1, 1, 100, 7 * SECOND, 5, b"r")
    gone = Copy((b"/two/a",), dev, 2, 100, mtime_ns, ctime_ns, b"r")
    return Step(b"/two/a", b"/one/a", "file", action, 100, "", gone, kept)


def test_a_copy_with_the_mtime_of_another_disk_waits() -> None:
    """For an hour, and where another one comes, for an hour more."""
    moves = Moves()
    assert moves.going_on([step()], NOW) == [step()]
    assert moves.seconds_left(NOW) == 3600
    later = step(ctime_ns=NOW + HOUR // 2)
    assert moves.going_on([later], NOW + HOUR // 2) == [later]
    assert moves.going_on([step()], NOW + HOUR) == [step()]
    assert moves.seconds_left(NOW + HOUR) == 1800
    assert not moves.going_on([step()], NOW + HOUR + HOUR // 2)


def test_the_order_makes_no_difference() -> None:
    """The newest of all tells for how long the oldest waits, after a start as well."""
    steps = [step(ctime_ns=NOW - 2 * HOUR), step(ctime_ns=NOW)]
    assert Moves().going_on(steps, NOW) == steps
    assert Moves().going_on(steps[::-1], NOW) == steps[::-1]


@pytest.mark.parametrize("mtime_ns", [7 * SECOND + 1, 6 * SECOND + 1])
def test_file_systems_round_mtimes_off(mtime_ns: int) -> None:
    assert Moves().going_on([step(mtime_ns=mtime_ns)], NOW)
    assert undoably(step(mtime_ns=mtime_ns)).action == "quarantine"


def test_others_do_not_wait() -> None:
    """Within a file system mv seldom copies, and a download has an mtime of its own."""
    assert not Moves().going_on([step(dev=1), step(mtime_ns=10 * SECOND)], NOW)


def test_a_ctime_to_come_is_that_of_now() -> None:
    """A wrong clock does not make anything wait for years."""
    moves = Moves()
    assert moves.going_on([step(ctime_ns=NOW + 1000 * HOUR)], NOW)
    assert not moves.going_on([step(ctime_ns=NOW)], NOW + HOUR)


@pytest.mark.parametrize("dev", [1, 2])
@pytest.mark.parametrize("action", ["delete", "symlink", "hardlink", "reflink", "quarantine"])
def test_only_what_comes_back_without_the_other_is_done(action: str, dev: int) -> None:
    """A mount of the same file system has the same device, and mv copies all the same."""
    done = undoably(step(action, dev=dev)).action
    assert done == ("quarantine" if action in ("delete", "symlink") else action)
    assert undoably(step(action, dev=dev, mtime_ns=10 * SECOND)).action == action
