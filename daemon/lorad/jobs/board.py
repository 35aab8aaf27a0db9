"""Which jobs there are: those that wait, those that run, those that ended lately. It starts no processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from loracore.control import JobState
from loracore.jobs.job import Place

#: Jobs that may wait, and ended ones that are remembered.
WAITING, _ENDED = 64, 100
#: Bytes of results that are kept in all, and seconds for which an ended job is remembered.
KEPT, _SECONDS = 512 << 20, 3600.0
#: Characters of a summary.
_SUMMARY = 200


class Result(Protocol):
    """A result that is kept somewhere."""

    size: int

    def close(self) -> None: ...


@dataclass
class Entry:
    """A job. `began` and `ended` are monotonic seconds."""

    id: int
    place: Place
    parameters: bytes
    summary: str
    asked: float
    #: Whose it is; None where it ends with no client.
    owner: Owner | None = None
    state: str = "waiting"
    done: float = 0.0
    total: float = 0.0
    what: str = ""
    began: float | None = None
    ended: float | None = None
    error: str = ""
    code: str = ""
    result: Result | None = None
    #: What is called with its state when it ends.
    waiters: list[Callable[[JobState], None]] = field(default_factory=list)

    @property
    def short(self) -> bool:
        """Whether it only looks at a file. Of these and of the others one runs at a time."""
        return self.place.short

    @property
    def is_over(self) -> bool:
        return self.ended is not None


class Board:
    """For use under one lock. Results that are not kept any more are closed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, room: int = KEPT) -> None:
        """`room`: bytes of results that are kept in all."""
        self._clock = clock
        self._room = room
        self._entries: dict[int, Entry] = {}
        self._queue: deque[int] = deque()
        self._number = 0

    def add(self, place: Place, parameters: bytes, summary: str, owner: Owner | None = None) -> Entry | None:
        """A new job, which waits; None where too many do."""
        if len(self._queue) >= WAITING:
            return None
        self._number += 1
        entry = Entry(self._number, place, parameters, summary[:_SUMMARY], time.time(), owner)
        self._entries[entry.id] = entry
        self._queue.append(entry.id)
        return entry

    def get(self, number: int) -> Entry | None:
        return self._entries.get(number)

    def ahead_of(self, entry: Entry) -> int:
        """How many run or wait before it, of those that it has to wait for."""
        before = (other for other in self._entries.values() if other.id < entry.id and other.short == entry.short)
        return sum(not other.is_over for other in before)

    def next(self, *, short: bool = False) -> Entry | None:
        """The one that has waited longest, of the short ones or of the others, which runs from now on."""
        entry = next((one for one in map(self._entries.__getitem__, self._queue) if one.short == short), None)
        if entry is not None:
            self._queue.remove(entry.id)
            entry.state, entry.began = "running", self._clock()
        return entry

    def of(self, owner: Owner) -> list[Entry]:
        """The jobs of a client that are not over."""
        return [entry for entry in self._entries.values() if entry.owner is owner and not entry.is_over]

    def end(
        self, entry: Entry, state: str, *, code: str = "", error: str = "", result: Result | None = None
    ) -> None:
        """It is over; `waiters` are for the caller to call."""
        if entry.state == "waiting":
            self._queue.remove(entry.id)
        entry.state, entry.code, entry.error, entry.result = state, code, error, result
        entry.ended, entry.parameters = self._clock(), b""
        self.tidy()

    def tidy(self) -> None:
        """Forget what ended long ago, and results that are too much in all: the oldest first."""
        over = sorted((entry for entry in self._entries.values() if entry.is_over), key=_ended, reverse=True)
        room = self._room
        for place, entry in enumerate(over):
            if place >= _ENDED or self._clock() - _ended(entry) > _SECONDS:
                _drop_result(entry)
                del self._entries[entry.id]
            elif entry.result is not None:
                room -= entry.result.size
                if room < 0:
                    _drop_result(entry)

    def states(self) -> Iterator[JobState]:
        """All, by id."""
        return map(self.state, self._entries.values())

    def state(self, entry: Entry) -> JobState:
        began = entry.began if entry.began is not None else entry.ended
        until = entry.ended if entry.ended is not None else self._clock()
        return JobState(
            id=entry.id,
            name=entry.place.name,
            summary=entry.summary,
            state=entry.state,
            done=entry.done,
            total=entry.total,
            what=entry.what,
            started=_rfc3339(entry.asked),
            seconds=round(until - began, 3) if began is not None else 0.0,
            error=entry.error,
            code=entry.code,
            result_bytes=entry.result.size if entry.result else None,
        )

    def close(self) -> None:
        """Let all results go."""
        for entry in self._entries.values():
            _drop_result(entry)


def _ended(entry: Entry) -> float:
    assert entry.ended is not None
    return entry.ended


def _drop_result(entry: Entry) -> None:
    if entry.result is not None:
        entry.result.close()
        entry.result = None


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Owner(Protocol):
    """A client whose jobs end with it."""

    #: Whether it is gone.
    closed: bool
    #: Whether it has begun a job.
    owns: bool
