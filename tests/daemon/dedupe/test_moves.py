"""A copy that may be half of a move to another file system waits until no more of its kind come."""

from __future__ import annotations

import pytest

from lorad.dedupe.keeping import Copy
from lorad.dedupe.moves import Moves
from lorad.dedupe.plan import Step

NOW, SECOND = 10**18, 10**9
HOUR = 3600 * SECOND


def step(*, dev: int = 2, mtime_ns: int = 7 * SECOND, ctime_ns: int = NOW) -> Step:
    kept = Copy((b"/one/a",), 1, 1, 100, 7 * SECOND, 5, b"r")
    gone = Copy((b"/two/a",), dev, 2, 100, mtime_ns, ctime_ns, b"r")
    return Step(b"/two/a", b"/one/a", "file", "delete", 100, "", gone, kept)


def test_a_copy_with_the_mtime_of_another_disk_waits() -> None:
    """For an hour, and where another one comes, for an hour more."""
    moves = Moves()
    assert moves.goes_on(step(), NOW)
    assert moves.seconds_left(NOW) == 3600
    assert moves.goes_on(step(ctime_ns=NOW + HOUR // 2), NOW + HOUR // 2)
    assert moves.goes_on(step(), NOW + HOUR)
    assert moves.seconds_left(NOW + HOUR) == 1800
    assert not moves.goes_on(step(), NOW + HOUR + HOUR // 2)


@pytest.mark.parametrize("mtime_ns", [7 * SECOND + 1, 6 * SECOND + 1])
def test_file_systems_round_mtimes_off(mtime_ns: int) -> None:
    assert Moves().goes_on(step(mtime_ns=mtime_ns), NOW)


def test_others_do_not_wait() -> None:
    """Within a file system mv copies nothing, and a download has an mtime of its own."""
    assert not Moves().goes_on(step(dev=1), NOW)
    assert not Moves().goes_on(step(mtime_ns=10 * SECOND), NOW)


def test_a_ctime_to_come_is_that_of_now() -> None:
    """A wrong clock does not make anything wait for years."""
    moves = Moves()
    assert moves.goes_on(step(ctime_ns=NOW + 1000 * HOUR), NOW)
    assert not moves.goes_on(step(ctime_ns=NOW), NOW + HOUR)
