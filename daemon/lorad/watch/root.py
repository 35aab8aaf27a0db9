"""watchdog's emitter for one root: the thread that waits for something to hear or to do, and what wakes it."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time

from watchdog.events import FileSystemEvent
from watchdog.observers.api import EventEmitter, EventQueue, ObservedWatch

from loracore.causes import explained
from loracore.paths import shown
from lorad.watch.coverage import Coverage
from lorad.watch.mounts import NEWS, MountTable
from lorad.watch.root_settings import Plan
from lorad.watch.root_state import RootState

_LOG = logging.getLogger(__name__)

#: Seconds at least between looks at what is mounted, which changes all the time where containers come and go.
_LULL = 0.25
#: Seconds between two readings: what is said in between costs one of them.
_PAUSE = 0.02
#: Events that may wait for the observer. While there are more, the kernel keeps them, or says that it could not.
_QUEUED = 50_000


class _Stopped(BaseException):
    """Leaves a walk through many folders when the thread is to end."""


class RootEmitter(EventEmitter):
    """Keeps the watch over one root in whichever way is possible, and says which that is.

    It takes the place of watchdog's own emitter, which is silent about overflows, limits, unreadable folders and
    folders that are moved in, and whose thread may end unnoticed (watchdog issues 117, 600, 654, 663).
    """

    def __init__(
        self,
        event_queue: EventQueue,
        watch: ObservedWatch,
        *,
        timeout: float = 1.0,
        event_filter: list[type[FileSystemEvent]] | None = None,
        plan: Plan,
    ) -> None:
        super().__init__(event_queue, watch, timeout=timeout, event_filter=event_filter)
        self._queue = event_queue
        self._plan = plan
        self._table: MountTable | None = None
        self._tick_at = self._ticked_at = 0.0
        self._alarm = Alarm()
        self._ears = select.poll()
        #: Counts on while a walk goes on, which may take longer than a canary's echo.
        self.beats = 0
        coverage = Coverage(plan, self._ears, self._beat, self.queue_event)
        self.state = RootState(plan, coverage, self.queue_event)

    def on_thread_stop(self) -> None:
        self._alarm.ring()

    def run(self) -> None:
        reason = "its thread ended"
        try:
            self._table = MountTable()
            # Nothing else tells at once of network folders being unmounted.
            self._ears.register(self._table, NEWS)
            self._ears.register(self._alarm.open(), select.POLLIN)
            super().run()
        except _Stopped:
            pass
        except OSError as error:
            reason = explained(error)
        except Exception:
            # One root is not to end the watch over others.
            _LOG.exception("a mistake in lorad: watching %s", shown(self._plan.root))
            reason = "a mistake in lorad, see its log"
        finally:
            with contextlib.suppress(OSError):
                self._close()
            if self.should_keep_running():
                self._plan.failed(reason)

    def queue_events(self, timeout: float) -> None:
        """One turn: wait for something to hear or to do, and say what it was. watchdog calls it for ever."""
        assert self._table is not None
        heard = self._wait(self._table, self._tick_at - time.monotonic())
        if heard:
            self.state.hear(self._table)
        if time.monotonic() >= self._tick_at:
            self._tick_at = self.state.tick(self._table)
            self._ticked_at = time.monotonic()
        if heard:
            self.stopped_event.wait(_PAUSE)
            self._hold_back()

    def _wait(self, table: MountTable, seconds: float) -> bool:
        """Wait until there is something to hear, but no longer than this; whether there is."""
        ready = {fd for fd, _ in self._ears.poll(max(0, seconds) * 1000)}
        if table.fileno() in ready:
            table.stale = True
            self._tick_at = min(self._tick_at, self._ticked_at + _LULL)
        listener = self.state.coverage.listener
        return listener is not None and listener.instance.fd in ready

    def _hold_back(self) -> None:
        while self._queue.qsize() > _QUEUED and self.should_keep_running():
            self.stopped_event.wait(_PAUSE)

    def _beat(self) -> None:
        self.beats += 1
        if not self.should_keep_running():
            raise _Stopped

    def _close(self) -> None:
        self._alarm.close()
        self.state.coverage.end()
        if self._table is not None:
            self._table.close()


class Alarm:
    """An eventfd. Any thread may ring it at any time, also when it is not there yet or any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd: int | None = None

    def open(self) -> int:
        """Its descriptor, for `poll`. Raises OSError where there can be no more of them."""
        with self._lock:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return self._fd

    def ring(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
