"""What became of duplicates in a day, for the log and for those who listen. No I/O and no clock of its own."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from loracore.control import ActionRefused, ActionTaken, ActionUndone, DaySummary


class Day:
    """Counts events until the local date changes. Times are seconds since the epoch."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._begin()

    def add(self, event: ActionTaken | ActionRefused | ActionUndone) -> None:
        match event:
            case ActionTaken():
                self._done[event.action] += 1
                self._bytes += event.bytes
            case ActionRefused():
                self._refused += 1
            case ActionUndone():
                self._undone += 1

    def ended(self, now: float) -> DaySummary | None:
        """The day that is over, once; None while it lasts, and for one on which nothing happened."""
        # Also when the clock was put back: then the day is over as well.
        if datetime.fromtimestamp(now).date() == datetime.fromtimestamp(self._since).date():
            return None
        since = datetime.fromtimestamp(self._since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        summary = DaySummary(since, dict(sorted(self._done.items())), self._bytes, self._refused, self._undone)
        self._since = now
        self._begin()
        return summary if summary.done or summary.refused or summary.undone else None

    def _begin(self) -> None:
        self._done: Counter[str] = Counter()
        self._bytes = self._refused = self._undone = 0
