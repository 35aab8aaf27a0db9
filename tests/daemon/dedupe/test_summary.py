"""The daily summary says once what the day brought."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

import pytest

from loracore.control import ActionRefused, ActionTaken, ActionUndone, DaySummary
from lorad.dedupe.action.order import Result
from lorad.dedupe.missed import Missed
from lorad.dedupe.standing import Wants
from lorad.dedupe.summary import Day, list_files, sum_up

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


class Nothing:
    """Stands for the service, which is asked for nothing here."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(name)


def test_what_no_journal_knows_is_counted_and_named() -> None:
    """Beside what actions have hidden; it is never due, and no action's number leads to it."""
    missed = Missed(cast("Wants", Nothing()))
    for number, name in [(7, b"/m/mine"), (-1, b"/m/stray"), (-2, b"/m/other")]:
        result = Result(number, "delete", b"/m/kept", name, 5, "hidden", aside=b"/m/.hidden")
        missed.put(result, [(b"layout", b"weights")])
    hidden = sum_up(missed, 0.0, ())
    assert (hidden.files, hidden.bytes, hidden.unknown) == (1, 5, 2)
    mine, *strays = list_files(missed, 0.0, None)
    assert (mine.id, mine.path, mine.reason) == (7, b"/m/mine", "")
    assert [(file.id, file.path, file.due) for file in strays] == [(0, b"/m/other", ""), (0, b"/m/stray", "")]
    assert all("in no journal" in file.reason for file in strays)
    assert [file.id for file in list_files(missed, 0.0, [7])] == [7]
    assert list_files(missed, 0.0, [0, 1]) == []
