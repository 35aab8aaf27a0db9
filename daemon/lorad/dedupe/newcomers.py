"""Which newcomers the policy still has to be asked about, and when. Pure: no I/O and no clock of its own.

A newcomer is a name that became a duplicate while its root was known. It waits here until it was acted on or
there is nothing to do about it. What could not be done, as somebody had the file open for one, is tried again
after five seconds, a minute, ten minutes and an hour.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable

#: Seconds until the next try.
_RETRIES = (5.0, 60.0, 600.0, 3600.0)
#: Names that are remembered; `loractl dedupe` knows all.
MOST = 100_000


class Newcomers:
    """Times are seconds on a clock that does not jump."""

    def __init__(self) -> None:
        #: When each is due, and how often it was tried in vain.
        self._waiting: dict[bytes, tuple[float, int]] = {}
        #: Those that are due with any other one in their folder, and since when they wait for it.
        self._parts: dict[bytes, float] = {}
        #: None is due before; it is asked far more often than anything changes.
        self._next_due = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, path: bytes) -> bool:
        return path in self._waiting

    def add(self, path: bytes) -> None:
        """It became a duplicate: it is due at once."""
        if len(self._waiting) < MOST:
            self._waiting[path] = (0.0, 0)
            self._next_due = 0.0

    def due(self, now: float) -> list[bytes]:
        if now < self._next_due:
            return []
        self._next_due = min((when for when, _ in self._waiting.values()), default=math.inf)
        due = [path for path, (when, _) in self._waiting.items() if when <= now]
        folders = {os.path.dirname(path) for path in due} if self._parts else set()
        return due + [path for path in self._parts.keys() - due if os.path.dirname(path) in folders]

    def settled(self, paths: Iterable[bytes]) -> None:
        """Nothing more is to be done about these."""
        for path in paths:
            self._waiting.pop(path, None)
            self._parts.pop(path, None)

    def wait(self, paths: Iterable[bytes], until: float) -> None:
        """Ask again then, without counting that as a try in vain."""
        for path in paths:
            if path in self._waiting:
                self._waiting[path] = (until, self._waiting[path][1])
                self._next_due = min(self._next_due, until)

    def wait_for_others(self, paths: Iterable[bytes], now: float) -> None:
        """Ask again when another one in the folder is due: parts of an adapter folder come one by one.

        What comes last may be no model, so ask also when they have waited twice as long, or an hour longer.
        """
        for path in self._waiting.keys() & set(paths):
            since = self._parts.setdefault(path, now)
            self.wait([path], now + min(max(now - since, _RETRIES[0]), _RETRIES[-1]))

    def refused(self, paths: Collection[bytes], now: float) -> None:
        """It was tried in vain: ask again later, unless that was the last time."""
        for path in paths:
            if path not in self._waiting:
                continue  # Forgotten while it was tried.
            _, tried = self._waiting[path]
            if tried < len(_RETRIES):
                self._waiting[path] = (now + _RETRIES[tried], tried + 1)
                self._next_due = min(self._next_due, now + _RETRIES[tried])
            else:
                self.settled([path])

    def forget(self) -> None:
        """The policy is to report again."""
        self.settled(list(self._waiting))
