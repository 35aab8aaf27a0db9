"""Newcomers are asked about when they are due, and no more often than makes sense."""

from __future__ import annotations

from lorad.dedupe.newcomers import Newcomers

FILE, OTHER = b"/models/a.safetensors", b"/models/b.safetensors"


def test_a_newcomer_is_due_at_once_and_until_it_is_settled() -> None:
    newcomers = Newcomers()
    newcomers.add(FILE)
    newcomers.add(OTHER)
    assert newcomers.due(0.0) == [FILE, OTHER]
    newcomers.settled([FILE])
    assert newcomers.due(0.0) == [OTHER]


def test_what_is_refused_is_tried_four_times_more() -> None:
    """After five seconds, a minute, ten minutes and an hour."""
    newcomers = Newcomers()
    newcomers.add(FILE)
    now, delays = 0.0, []
    while len(newcomers):
        newcomers.refused([FILE], now)
        delay = next((seconds for seconds in (5.0, 60.0, 600.0, 3600.0) if newcomers.due(now + seconds)), None)
        if delay is not None:
            assert not newcomers.due(now + delay - 0.1)
            delays.append(delay)
            now += delay
    assert delays == [5.0, 60.0, 600.0, 3600.0]


def test_waiting_to_be_old_enough_is_no_try_in_vain() -> None:
    newcomers = Newcomers()
    newcomers.add(FILE)
    for until in range(10, 100, 10):
        newcomers.wait([FILE], float(until))
        assert not newcomers.due(until - 1.0)
        assert newcomers.due(float(until)) == [FILE]


def test_parts_of_a_folder_are_due_with_one_another() -> None:
    """SPEC 5: an adapter folder goes as a whole, once its last part came."""
    newcomers = Newcomers()
    newcomers.add(FILE)
    newcomers.wait_for_others([FILE, b"/models/never.safetensors"], 0.0)
    newcomers.add(b"/elsewhere/c.safetensors")
    assert newcomers.due(1.0) == [b"/elsewhere/c.safetensors"]
    newcomers.add(OTHER)
    assert set(newcomers.due(2.0)) == {b"/elsewhere/c.safetensors", OTHER, FILE}
    newcomers.settled([FILE, b"/elsewhere/c.safetensors"])
    assert newcomers.due(3.0) == [OTHER]


def test_a_part_is_asked_about_ever_more_rarely_by_itself() -> None:
    """What lacks may be no model; and two folders may differ for good."""
    newcomers = Newcomers()
    newcomers.add(FILE)
    now, times = 0.0, []
    while now < 20_000:
        newcomers.wait_for_others([FILE], now)
        assert not newcomers.due(now + 4.9)
        now = next(now + step for step in (5.0, *range(10, 3601, 10)) if newcomers.due(now + step))
        times.append(now)
    assert times[:5] == [5.0, 10.0, 20.0, 40.0, 80.0]
    assert times[-1] - times[-2] == 3600.0
    newcomers.settled([FILE])
    assert not newcomers.due(now * 2)


def test_one_that_came_again_is_due_at_once() -> None:
    """It may have been overwritten since it was refused."""
    newcomers = Newcomers()
    newcomers.add(FILE)
    newcomers.refused([FILE], 0.0)
    assert not newcomers.due(1.0)
    newcomers.add(FILE)
    assert newcomers.due(1.0) == [FILE]


def test_memory_is_bounded() -> None:
    """Who copies a library of duplicates in is better served by `loractl dedupe --apply` for the rest."""
    newcomers = Newcomers(most=2)
    for number in range(5):
        newcomers.add(b"/models/%d" % number)
    assert len(newcomers) == 2
    newcomers.forget()
    assert not newcomers.due(0.0)


def test_what_was_forgotten_while_it_was_tried_stays_forgotten() -> None:
    """The policy was set to report meanwhile."""
    newcomers = Newcomers()
    newcomers.add(FILE)
    newcomers.forget()
    newcomers.refused([FILE], 0.0)
    newcomers.wait([FILE], 1.0)
    assert not len(newcomers)
