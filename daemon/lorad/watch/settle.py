"""Waiting until a file is done: names that something happened to, until they are quiet and look the same twice.

No clock, thread or file of its own: the time, and what a name leads to, are given from outside.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from loracore.config import Watch
from loracore.identity import TICK_NS, tick_of


class Stamped(Protocol):
    """What a name leads to, compared as a whole (device, inode, size, mtime and ctime)."""

    @property
    def ctime_ns(self) -> int: ...


Identity = TypeVar("Identity", bound=Stamped)


@dataclass(slots=True)
class _Waiting(Generic[Identity]):
    identity: Identity | None
    #: Seconds that it must be quiet.
    quiet: float
    #: When it began to look as it does.
    since: float
    #: When it is due if nothing happens.
    when: float
    #: Its earliest place in the heap, which may be too early.
    planned: float


class SettleQueue(Generic[Identity]):
    """Names that are being written or have been, each until it is due.

    A name is due when nothing happened to it for `settle_seconds` (its writer closed or renamed it) or
    `quiet_seconds` (nobody was seen to close it), it leads to what it led to when that wait began, and that
    last changed at least one tick of the clock ago. A name that leads nowhere is due at once. So what keeps
    changing is never due, whether or not there are events that tell of it, and holds up no other.
    """

    def __init__(
        self,
        settings: Watch,
        *,
        look: Callable[[bytes], Identity | None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        limit: int = 200_000,
    ) -> None:
        """`look` says what a name leads to, None if to nothing; `clock` is what `due` counts in."""
        self.settings = settings
        self._look = look
        self._clock = clock
        self._wall = wall
        self._limit = limit
        self._names: dict[bytes, _Waiting[Identity]] = {}
        self._heap: list[tuple[float, bytes]] = []

    def __contains__(self, path: object) -> bool:
        return path in self._names

    def names(self) -> set[bytes]:
        """All that wait now."""
        return set(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def next_due(self) -> float | None:
        """When `due` is to be asked next; None when nothing waits."""
        self._tidy()
        return self._heap[0][0] if self._heap else None

    def add(self, path: bytes, closed: bool) -> bool:
        """Something happened to a name: its wait begins anew.

        False when there are too many names to take another; then the folder must be looked through once there
        are fewer.
        """
        waiting = self._names.get(path)
        if waiting is None and len(self._names) >= self._limit:
            return False
        now, identity = self._clock(), self._look(path)
        quiet = self.settings.settle_seconds if closed else self.settings.quiet_seconds
        when = now if identity is None else now + quiet
        if waiting is None:
            self._names[path] = _Waiting(identity, quiet, now, when, when)
            heapq.heappush(self._heap, (when, path))
            return True
        if identity != waiting.identity:
            waiting.identity, waiting.since = identity, now
        waiting.quiet = quiet
        self._wait(path, waiting, when)
        return True

    def due(self, now: float, most: int = 1024) -> list[bytes]:
        """The names that are due, at most so many at once; they wait no longer."""
        found: list[bytes] = []
        for _ in range(most):
            self._tidy()
            if not self._heap or self._heap[0][0] > now:
                break
            _, path = heapq.heappop(self._heap)
            when = self._judge(path, self._names[path], now)
            if when is None:
                del self._names[path]
                found.append(path)
            else:
                waiting = self._names[path]
                waiting.when = waiting.planned = when
                heapq.heappush(self._heap, (when, path))
        return found

    def _judge(self, path: bytes, waiting: _Waiting[Identity], now: float) -> float | None:
        """Until when a quiet name has to wait on; None when it is due."""
        identity = self._look(path)
        if identity is None:
            return None
        if identity != waiting.identity:
            waiting.identity, waiting.since = identity, now
            return now + max(waiting.quiet, TICK_NS / 1e9)
        tick = tick_of(identity.ctime_ns) / 1e9
        young = tick - (self._wall() - identity.ctime_ns / 1e9)
        # Having looked the same for a tick is as good, and is all there is where another machine's clock is ahead.
        when = now + min(young, waiting.since + tick - now)
        return when if when > now else None

    def _wait(self, path: bytes, waiting: _Waiting[Identity], when: float) -> None:
        """Put a name's time off, or bring it forward. Only the latter needs another place in the heap."""
        waiting.when = when
        if when < waiting.planned:
            waiting.planned = when
            heapq.heappush(self._heap, (when, path))
            if len(self._heap) > 2 * len(self._names):
                # A name that comes and goes leaves a place behind each time; most of them are such.
                for each in self._names.values():
                    each.planned = each.when
                self._heap = [(each.planned, name) for name, each in self._names.items()]
                heapq.heapify(self._heap)

    def _tidy(self) -> None:
        """Bring what is on top of the heap to its proper place."""
        while self._heap:
            when, path = self._heap[0]
            waiting = self._names.get(path)
            if waiting is None or when != waiting.planned:
                heapq.heappop(self._heap)
            elif when < waiting.when:
                waiting.planned = waiting.when
                heapq.heapreplace(self._heap, (waiting.when, path))
            else:
                return
