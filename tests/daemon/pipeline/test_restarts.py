"""Judging children by what they count, with a clock of the test's own."""

from __future__ import annotations

import pytest

from lorad.pipeline.arena import Arena, Pulse
from lorad.pipeline.restarts import (
    DEATHS_A_MINUTE,
    SILENT,
    STALLED,
    STARTING,
    Fault,
    Health,
    PipelineBrokenError,
    Restarts,
    Vital,
)
from lorad.supervisor import status

MIB = 1 << 20


def vital(beats: int, steps: int = 0, *, ready: bool = True, busy: bool = False, memory: int = 0) -> Vital:
    return Vital("loader-0", Pulse(beats, steps), ready, busy, memory)


def test_a_child_that_counts_its_seconds_lives() -> None:
    health = Health()
    assert not any(health.look(float(second), [vital(second)]) for second in range(300))


def test_a_stopped_child_is_ended_after_three_beats() -> None:
    health = Health()
    looks = [health.look(float(second), [vital(7)]) for second in range(8)]
    assert [bool(look) for look in looks].index(True) == int(SILENT) + 1
    verdict = looks[int(SILENT) + 1][0]
    assert (verdict.name, verdict.fault) == ("loader-0", Fault.SILENT)
    assert "no sign of life" in verdict.why


def test_a_child_that_starts_has_more_time() -> None:
    health = Health()
    assert not any(health.look(float(second), [vital(0, ready=False)]) for second in range(30))


def test_a_child_that_hangs_in_its_start_is_ended_though_its_heart_beats() -> None:
    """Soon enough for a successor, before systemd's watchdog hears no more of the daemon."""
    health = Health()
    looks = [health.look(float(second), [vital(second, ready=False)]) for second in range(int(STARTING) + 2)]
    assert not any(looks[: int(STARTING) + 1])
    assert looks[-1][0].fault is Fault.STARTING
    assert STARTING + 10 < status._WITHOUT_HASHER


def test_a_child_that_became_ready_has_started() -> None:
    """However long it took."""
    health = Health()
    for second in range(int(STARTING)):
        health.look(float(second), [vital(second, ready=False)])
    assert not any(health.look(float(second), [vital(second)]) for second in range(int(STARTING), 200))


def test_a_child_that_hangs_in_its_work_is_ended_though_its_heart_beats() -> None:
    health = Health()
    looks = [health.look(float(second), [vital(second, 5, busy=True)]) for second in range(int(STALLED) + 3)]
    assert looks[-1][0].fault is Fault.STALLED
    assert "did not get on" in looks[-1][0].why
    assert not any(looks[: int(STALLED)])


def test_idleness_is_not_hanging() -> None:
    health = Health()
    assert not any(health.look(float(second), [vital(second, 5)]) for second in range(int(STALLED) * 2))


def test_after_our_own_stall_the_clocks_start_anew() -> None:
    """A suspended machine stops us as well as them."""
    health = Health()
    health.look(0.0, [vital(1)])
    assert not health.look(3600.0, [vital(1)])
    assert not health.look(3601.0, [vital(1)])
    assert health.look(3601.0 + SILENT, [vital(1)]) == []
    assert not health.look(3602.0, [vital(2)])


def test_too_much_memory_pauses_first_and_ends_when_the_work_is_done() -> None:
    health = Health(100 * MIB)
    assert health.look(0.0, [vital(0, memory=120 * MIB, busy=True)]) == []
    assert health.look(1.0, [vital(1, 1, memory=120 * MIB, busy=True)]) == []
    assert health.paused == {"loader-0"}
    verdict = health.look(2.0, [vital(2, 2, memory=120 * MIB)])[0]
    assert verdict.fault is Fault.MEMORY
    assert "limit of 100 MiB" in verdict.why
    health.gone("loader-0")
    assert not health.paused


def test_far_too_much_memory_does_not_wait_for_the_work() -> None:
    health = Health(100 * MIB)
    health.look(0.0, [vital(0, memory=200 * MIB, busy=True)])
    assert health.look(1.0, [vital(1, 1, memory=200 * MIB, busy=True)])


def test_starts_are_put_off_ever_longer_until_it_makes_no_sense() -> None:
    restarts = Restarts()
    delays = [restarts.died("hasher", 1.0, by_itself=True) - 1.0 for _ in range(DEATHS_A_MINUTE)]
    assert delays == [0, 1, 2, 4]
    with pytest.raises(PipelineBrokenError, match="hasher"):
        restarts.died("hasher", 1.0, by_itself=True)
    assert restarts.died("loader-0", 1.0, by_itself=True) == 1.0
    assert restarts.died("hasher", 62.0, by_itself=True) == 62.0


def test_deaths_that_a_file_caused_are_not_counted() -> None:
    restarts = Restarts()
    assert [restarts.died("loader-0", 1.0, by_itself=False) for _ in range(20)] == [1.0] * 20


def test_what_a_child_counts_is_read_by_another_mapping() -> None:
    arena = Arena.create(4096, 1)
    twin = Arena(arena.fd, 4096, 1)
    for _ in range(3):
        twin.beat(5)
    twin.step(5)
    assert arena.pulse(5) == Pulse(3, 1)
    assert arena.pulse(4) == arena.pulse(6) == Pulse(0, 0)
