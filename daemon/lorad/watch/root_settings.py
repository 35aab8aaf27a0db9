"""How one root is to be watched, and when it is looked through whether or not anything was told of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loracore.config import Watch
from lorad.watch.canary import Canary
from lorad.watch.exclude import LeftOut
from lorad.watch.place import Memory


@dataclass(frozen=True)
class Plan:
    """It is the same for a watch that is made anew. `failed` gets the reason where one ended by itself."""

    root: bytes
    #: Paths that lead to the root now: symbolic links, and its own.
    links: Callable[[], Sequence[bytes]]
    #: Whether links are looked through.
    follow: bool
    left_out: LeftOut
    settings: Callable[[], Watch]
    canary: Canary
    memory: Memory
    failed: Callable[[str], None]
    #: Seconds between looks whether the root is there and what is mounted in it.
    check: float


class Schedule:
    """Counted from the last time. Rescans are varied by a tenth, so that those of many roots do not meet."""

    def __init__(self) -> None:
        self._polled_at = self._rescanned_at = 0.0
        self._jitter = 1.0

    def rescanned(self, now: float) -> None:
        self._rescanned_at = self._polled_at = now
        self._jitter = random.uniform(0.9, 1.1)

    def polled(self, now: float) -> None:
        self._polled_at = now

    def rescan_at(self, settings: Watch) -> float:
        return self._rescanned_at + settings.rescan_seconds * self._jitter

    def poll_at(self, settings: Watch) -> float:
        return self._polled_at + settings.poll_seconds
