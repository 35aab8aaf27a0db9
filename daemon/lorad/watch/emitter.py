"""watchdog's emitter for one root: a thread that hears, polls and rescans, and knows whether the root is there."""

from __future__ import annotations

import os
import random
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from watchdog.events import FileSystemEvent
from watchdog.observers.api import EventEmitter, EventQueue, ObservedWatch

from loracore.config import Watch
from lorad.watch import limits
from lorad.watch.canary import Canary
from lorad.watch.events import EchoEvent, HealthEvent, RescanEvent
from lorad.watch.listener import Listener
from lorad.watch.mounts import NEWS, MountTable, find, inside, is_remote
from lorad.watch.place import Absent, Memory, locate

#: Seconds between looks whether the root is there and what is mounted in it.
_CHECK = 2.0
#: Seconds between two readings: what is said in between costs one of them.
_PAUSE = 0.02
#: Events that may wait for the observer. While there are more, the kernel keeps them, or says that it could not.
_QUEUED = 50_000


@dataclass(frozen=True)
class Plan:
    """What an emitter has to know. `failed` is told why it ended, when nobody stopped it."""

    root: bytes
    follow: bool
    without: tuple[bytes, ...]
    settings: Callable[[], Watch]
    canary: Canary
    memory: Memory
    failed: Callable[[str], None]


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
        self._root = plan.root
        self._table: MountTable | None = None
        self._listener: Listener | None = None
        self._place = plan.memory.place(plan.root)
        self._remote = ""
        self._below: dict[bytes, int] = {}
        self._trouble = ""
        self._told = ("", "")
        self._tick_at = self._polled_at = self._rescanned_at = 0.0
        self._jitter = 1.0
        self._alarm_lock = threading.Lock()
        self._alarm: int | None = None
        #: Counts on while a walk goes on, which may take longer than a canary's echo.
        self.beats = 0
        self.walking = False
        #: Whether the root is there; None until that is known.
        self.there: bool | None = None

    @property
    def folders(self) -> int:
        """Those in which changes are noticed as they happen."""
        listener = self._listener
        return listener.tree.watched if listener else 0

    @property
    def echoes(self) -> bool:
        """Whether it is to be expected that canaries are heard, if only once a walk is over."""
        listener = self._listener
        return listener is not None and listener.echoes

    # The thread

    def on_thread_stop(self) -> None:
        with self._alarm_lock:
            if self._alarm is not None:
                os.eventfd_write(self._alarm, 1)

    def run(self) -> None:
        reason = "its thread ended"
        try:
            self._table = MountTable()
            with self._alarm_lock:
                self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            super().run()
        except _Stopped:
            pass
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            self._close()
            if self.should_keep_running():
                self._plan.failed(reason)

    def queue_events(self, timeout: float) -> None:
        """One turn: wait for something to hear or to do, and say what it was. watchdog calls it for ever."""
        self._wait(self._tick_at - time.monotonic())
        heard = False
        if self._listener is not None and self._is_readable(self._listener.fd):
            # A name is not gone because its root is: so that is asked first.
            self._check()
            if self._listener is not None and self._listener.hear():
                self._check()
            self._see_how_it_goes()
            heard = True
        if time.monotonic() >= self._tick_at:
            self._tick()
        if heard:
            self.stopped_event.wait(_PAUSE)
            self._hold_back()

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        if self._alarm is not None:
            poll.register(self._alarm, select.POLLIN)
        if self._listener is not None:
            poll.register(self._listener.fd, select.POLLIN)
        if self._remote and self._table is not None:
            # Nothing else tells of these being unmounted.
            poll.register(self._table, NEWS)
        for fd, _ in poll.poll(max(0, seconds) * 1000):
            if self._table is not None and fd == self._table.fileno():
                self._table.stale = True
                self._tick_at = 0

    def _is_readable(self, fd: int) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(0))

    def _hold_back(self) -> None:
        while self._queue.qsize() > _QUEUED and self.should_keep_running():
            self.stopped_event.wait(_PAUSE)

    def _beat(self) -> None:
        self.beats += 1
        if not self.should_keep_running():
            raise _Stopped

    # Whether it is there

    def _check(self, changed: bool = False) -> None:
        """Look whether the root is there, and is what it was. `changed`: the mounts are not what they were."""
        assert self._table is not None
        changed = self._table.changed() or changed
        try:
            place = locate(self._root, self._table.mounts, self._place)
        except Absent as absent:
            self._leave(str(absent))
            return
        before, self._place = self._place, place
        self._plan.memory.keep(self._root, place.mount)
        if not self.there:
            self._enter("the folder is watched now" if self.there is None else "the folder is there again")
        elif before is not None and place[:2] != before[:2]:
            self._enter("another folder is in its place")
        elif changed:
            self._mounts_changed()

    def _enter(self, reason: str) -> None:
        """The root is there: watch it, and then have it looked through."""
        self._drop_listener()
        self.there, self._trouble = True, ""
        assert self._table is not None
        number = self._plan.canary.sent
        mount = find(self._table.mounts, self._root)
        self._remote = _remote(mount.kind) if mount is not None and is_remote(mount) else ""
        if not self._remote:
            self._listen()
        self._tell_health()
        self._rescan(reason)
        # Looking through everything is an answer to all canaries that were made before.
        self.queue_event(EchoEvent(self._root, number=number))

    def _leave(self, reason: str) -> None:
        """The root is not there. What was in it is not gone for that."""
        number, was_there = self._plan.canary.sent, self.there
        self._drop_listener()
        self.there = False
        self._say_health("missing", reason)
        if was_there is not False:
            self.queue_event(EchoEvent(self._root, number=number))

    def _listen(self) -> None:
        plan = self._plan
        try:
            self._listener = Listener(
                self._root,
                plan.canary,
                follow=plan.follow,
                without=plan.without,
                beat=self._beat,
                emit=self.queue_event,
            )
        except OSError as error:
            self._trouble = limits.explain_instance(error)
            return
        self._trouble = ""
        self._listener.tree.remote = self._remote_inside()
        self._walk(lambda listener: listener.tree.adopt(self._root))

    def _mounts_changed(self) -> None:
        """Something was mounted or unmounted, perhaps in the root, of which no folder's watch tells."""
        assert self._table is not None
        below = {point: mount.device for point, mount in inside(self._table.mounts, self._root).items()}
        if self._listener is None or below == self._below:
            return
        self._listener.tree.remote = self._remote_inside()
        self._walk(lambda listener: listener.tree.renew())
        self._rescan("something was mounted or unmounted in the folder")
        self._tell_health()

    def _remote_inside(self) -> dict[bytes, str]:
        assert self._table is not None
        below = inside(self._table.mounts, self._root)
        self._below = {point: mount.device for point, mount in below.items()}
        return {point: _remote(mount.kind) for point, mount in below.items() if is_remote(mount)}

    def _walk(self, walk: Callable[[Listener], object]) -> None:
        if self._listener is not None:
            self.walking = True
            walk(self._listener)
            self.walking = False

    # By the clock

    def _tick(self) -> None:
        settings, now = self._plan.settings(), time.monotonic()
        poll_at = self._polled_at + settings.poll_seconds
        assert self._table is not None
        changed = self._table.changed()
        if not (self._remote and self.there) or changed or now >= poll_at:
            # A server that does not answer is asked no more often than it must be.
            self._check(changed)
        if self.there:
            if now >= self._rescanned_at + settings.rescan_seconds * self._jitter:
                self._walk(lambda listener: listener.tree.renew())
                self._rescan("it is time to look through everything")
                self._tell_health()
            elif now >= poll_at and (self._remote or self._told[0] == "degraded"):
                self._poll()
            self._see_how_it_goes()
        self._tick_at = min(time.monotonic() + _CHECK, self._due(settings))

    def _due(self, settings: Watch) -> float:
        if not self.there:
            return time.monotonic() + _CHECK
        due = self._rescanned_at + settings.rescan_seconds * self._jitter
        if self._remote or self._told[0] == "degraded":
            due = min(due, self._polled_at + settings.poll_seconds)
        return due

    def _poll(self) -> None:
        """Look through what nothing tells of, after trying whether it can be watched now."""
        folders = [self._root]
        if self._listener is not None:
            self.walking = True
            folders = self._listener.retry()
            self.walking = False
        elif not self._remote:
            self._listen()
        for folder in folders:
            self.queue_event(RescanEvent(folder, reason="nothing tells of changes here"))
        self._polled_at = time.monotonic()
        self._tell_health()

    def _rescan(self, reason: str) -> None:
        self.queue_event(RescanEvent(self._root, reason=reason))
        self._rescanned_at = self._polled_at = time.monotonic()
        self._jitter = random.uniform(0.9, 1.1)

    # How it is watched

    def _tell_health(self) -> None:
        if self._remote:
            self._say_health("polling", self._remote)
        elif trouble := self._trouble or (self._listener.trouble() if self._listener else ""):
            self._say_health("degraded", trouble)
        else:
            self._say_health("watching", "")

    def _see_how_it_goes(self) -> None:
        if self._listener is not None and self._listener.sound != (self._told[0] == "watching"):
            self._tell_health()

    def _say_health(self, health: str, reason: str) -> None:
        if (health, reason) != self._told:
            self._told = (health, reason)
            self.queue_event(HealthEvent(self._root, health=health, reason=reason))

    def _drop_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _close(self) -> None:
        with self._alarm_lock:
            if self._alarm is not None:
                os.close(self._alarm)
                self._alarm = None
        self._drop_listener()
        if self._table is not None:
            self._table.close()


def _remote(kind: bytes) -> str:
    return f"it is on {os.fsdecode(kind)}, which does not tell of changes made elsewhere"
