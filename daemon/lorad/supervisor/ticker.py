"""Reports how the daemon is, to clients and to systemd: often while there is work, now and then without."""

from __future__ import annotations

import time

from loracore.control import Status
from lorad.control.server import ControlServer
from lorad.supervisor.status import Reporter
from lorad.supervisor.systemd import Notifier, sentence
from lorad.watch.watcher import Watcher

#: Seconds between two looks at what is due, and between two reports while there is work.
TICK, BUSY_TICK = 5.0, 0.25
#: Seconds without a hasher after which systemd is no longer told that all is well; more than a start may take.
_WITHOUT_HASHER = 60.0
#: The same without a sign of life of the watch.
_SILENT_WATCH = 60.0


class Ticker:
    """For the loop's thread, but for `hurry` and `status`, which any thread may use."""

    def __init__(self, reporter: Reporter, control: ControlServer, watcher: Watcher, notifier: Notifier) -> None:
        self._reporter = reporter
        self._control = control
        self._watcher = watcher
        self._notifier = notifier
        #: The newest one; None before there is one.
        self.status: Status | None = None
        #: When the next report is.
        self.due = 0.0
        self._next_ping = 0.0
        self._hasher_seen = time.monotonic()

    def hurry(self, seconds: float = 0.0) -> None:
        """Have the next report within so many seconds."""
        self.due = min(self.due, time.monotonic() + seconds)

    def tick_in_time(self) -> None:
        """Report if that is due."""
        if time.monotonic() >= self.due:
            self.tick()

    def tick(self) -> None:
        """Report now."""
        now = time.monotonic()
        self.status = status = self._reporter.status()
        self._control.set_status(status)
        rest = min(TICK, self._notifier.watchdog_interval or TICK)
        self.due = now + (BUSY_TICK if status.state != "idle" else rest)
        if now >= self._next_ping:
            self._next_ping = now + min(rest, 1.0)
            self._notifier.status(sentence(status))
            if any(child.name == "hasher" and child.state in {"ready", "paused"} for child in status.children):
                self._hasher_seen = now
            if now - self._hasher_seen < _WITHOUT_HASHER and self._watcher.silent_seconds() < _SILENT_WATCH:
                self._notifier.watchdog()
