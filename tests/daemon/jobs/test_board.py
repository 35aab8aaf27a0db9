"""Which jobs are remembered, and for how long."""

from __future__ import annotations

from loracore.jobs.job import Place
from lorad.jobs.board import Board

PLACE = Place("count", "module:COUNT", "samples")


class Kept:
    def __init__(self, size: int) -> None:
        self.size = size
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_jobs_are_forgotten_after_an_hour() -> None:
    """With their results; those that wait or run are not."""
    now = 0.0
    board = Board(lambda: now)
    result = Kept(10)
    for _ in range(3):
        board.add(PLACE, b"", "")
    first, second = board.next(), board.next()
    assert first
    assert second
    board.end(first, "done", result=result)
    now = 3599.0
    board.tidy()
    assert (board.get(first.id), result.closed) == (first, False)
    now = 3601.0
    board.tidy()
    assert (board.get(first.id), result.closed) == (None, True)
    assert [state.id for state in board.states()] == [2, 3]
    assert [state.seconds for state in board.states()] == [3601.0, 0.0]


def test_the_newest_hundred_are_remembered() -> None:
    now = 0.0
    board = Board(lambda: now)
    results = [Kept(1) for _ in range(150)]
    for result in results:
        board.add(PLACE, b"", "x" * 1000)
        now += 1
        entry = board.next()
        assert entry
        board.end(entry, "done", result=result)
    states = list(board.states())
    assert [state.id for state in states] == list(range(51, 151))
    assert len(states[0].summary) == 200
    assert [result.closed for result in results] == [True] * 50 + [False] * 100
    board.close()
    assert all(result.closed for result in results)
