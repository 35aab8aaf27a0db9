"""The daily summary says once what the day brought."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from loracore.control import ActionRefused, ActionTaken, ActionUndone, DaySummary
from lorad.dedupe.summary import Day

HOUR = 3600.0
#: 2026-11-21T12:00:00Z
NOON = 1795262400.0


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_day_is_summed_up_when_it_is_over() -> None:
    """Files by action, bytes, refusals; then the next day begins."""
    day = Day(NOON)
    for number, action in enumerate(("symlink", "delete", "symlink"), 1):
        day.add(ActionTaken(number, action, b"/a", b"/b", 100))
    day.add(ActionRefused("delete", b"/a", b"/c", "in use"))
    day.add(ActionUndone(1, b"/b"))
    assert day.ended(NOON + 11.9 * HOUR) is None
    summary = DaySummary("2026-11-21T12:00:00Z", {"delete": 1, "symlink": 2}, 300, 1, 1)
    assert day.ended(NOON + 12.1 * HOUR) == summary
    assert day.ended(NOON + 12.2 * HOUR) is None
    day.add(ActionUndone(2, b"/b"))
    following = day.ended(NOON + 40 * HOUR)
    assert following is not None
    assert (following.since, following.undone, following.bytes) == ("2026-11-22T00:06:00Z", 1, 0)


def test_a_day_without_actions_is_not_told_of() -> None:
    assert Day(NOON).ended(NOON + 24 * HOUR) is None
