"""When a root is polled, and when it is looked through whether or not anything was told of it."""

from __future__ import annotations

import random

from loracore.config import Watch


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
