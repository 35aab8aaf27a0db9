"""watchdog's emitter for one root: a thread that hears, polls and rescans, and knows whether the root is there.

It has the times at which a root is polled, and looked through whether or not anything was told of it, and the bell
that wakes it from `poll`.
"""

from __future__ import annotations

import contextlib
import logging
import select
import time
from collections.abc import Callable

from watchdog.events import FileSystemEvent
from watchdog.observers.api import EventEmitter, EventQueue, ObservedWatch

from loracore.causes import explained
from loracore.paths import shown
from lorad.watch import calls, mounts, tree
from lorad.watch.events import EchoEvent, HealthEvent, LedEvent, RescanEvent
from lorad.watch.inotify_events import Listener
from lorad.watch.mounts import NEWS, Mount, MountTable, find, inside
from lorad.watch.place import Absent, locate
from lorad.watch.root_settings import Alarm, Plan, Schedule

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
        self._root = plan.root
        self._table: MountTable | None = None
        self._listener: Listener | None = None
        self._place = plan.memory.place(plan.root)
        self._remote = ""
        self._below: dict[bytes, Mount] = {}
        self._trouble = ""
        self._told = ("", "")
        #: Paths that do not lead to the root any more, as it was told.
        self._led: dict[bytes, bytes] = {}
        self._tick_at = self._ticked_at = 0.0
        self._schedule = Schedule()
        self._alarm = Alarm()
        self._ears = select.poll()
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
            _LOG.exception("a mistake in lorad: watching %s", shown(self._root))
            reason = "a mistake in lorad, see its log"
        finally:
            with contextlib.suppress(OSError):
                self._close()
            if self.should_keep_running():
                self._plan.failed(reason)

    def queue_events(self, timeout: float) -> None:
        """One turn: wait for something to hear or to do, and say what it was. watchdog calls it for ever."""
        heard = self._wait(self._tick_at - time.monotonic())
        if heard:
            # A name is not gone because its root is: so that is asked first.
            self._check()
            self._hear()
            self._see_how_it_goes()
        if time.monotonic() >= self._tick_at:
            self._tick()
        if heard:
            self.stopped_event.wait(_PAUSE)
            self._hold_back()

    def _hear(self) -> None:
        listener = self._listener
        if listener is not None and listener.hear():
            self._check()
            if self._listener is listener and listener.lost:
                # The same disk, or a folder of the same number, was back before anyone looked.
                self._enter("it was away for a moment", view=listener.lost_root)

    def _wait(self, seconds: float) -> bool:
        """Wait until there is something to hear, but no longer than this; whether there is."""
        assert self._table is not None
        ready = {fd for fd, _ in self._ears.poll(max(0, seconds) * 1000)}
        if self._table.fileno() in ready:
            self._table.stale = True
            self._tick_at = min(self._tick_at, self._ticked_at + _LULL)
        return self._listener is not None and self._listener.instance.fd in ready

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
        self._see_where_links_lead()
        changed = self._table.changed() or changed
        try:
            place = locate(self._root, self._table.mounts, self._place)
        except Absent as absent:
            self._leave(str(absent))
            return
        before, self._place = self._place, place
        self._plan.memory.keep(self._root, place)
        if self.there is None:
            self._enter("the folder is watched now")
        elif not self.there:
            self._enter("the folder is there again", view=True)
        elif before is not None and place[:2] != before[:2]:
            self._enter("another folder is in its place", view=True)
        elif changed:
            self._mounts_changed()

    def _see_where_links_lead(self) -> None:
        for link in self._plan.links():
            leads = calls.real(link, self._led.get(link, self._root))
            if leads != self._led.get(link, self._root):
                self._led[link] = leads
                self.queue_event(LedEvent(self._root, link=link, leads=leads))

    def _enter(self, reason: str, *, view: bool = False) -> None:
        """The root is there: watch it, and then have it looked through."""
        self._drop_listener()
        self.there, self._trouble = True, ""
        assert self._table is not None
        number = self._plan.canary.sent
        mount = find(self._table.mounts, self._root)
        self._remote = mounts.why_polled(mount)
        if not self._remote:
            self._listen()
        self._tell_health()
        self._rescan(reason, view=view)
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
        try:
            self._listener = Listener(self._plan, self._beat, self.queue_event)
        except OSError as error:
            self._trouble = tree.explain_instance(error)
            return
        self._ears.register(self._listener.instance.fd, select.POLLIN)
        self._trouble = ""
        self._listener.tree.remote = self._remote_inside()
        self._walk(lambda listener: listener.tree.adopt(self._root))

    def _mounts_changed(self) -> None:
        """Something was mounted or unmounted, perhaps in the root, of which no folder's watch tells."""
        assert self._table is not None
        if self._listener is None or inside(self._table.mounts, self._root) == self._below:
            return
        self._listener.tree.remote = self._remote_inside()
        self._walk(lambda listener: listener.tree.renew())
        self._rescan("something was mounted or unmounted in the folder")
        self._tell_health()

    def _remote_inside(self) -> dict[bytes, str]:
        assert self._table is not None
        self._below = inside(self._table.mounts, self._root)
        return {point: why for point, mount in self._below.items() if (why := mounts.why_polled(mount))}

    def _walk(self, walk: Callable[[Listener], object]) -> None:
        if self._listener is not None:
            self.walking = True
            walk(self._listener)
            self.walking = False

    # By the clock

    def _tick(self) -> None:
        settings, now = self._plan.settings(), time.monotonic()
        poll_at = self._schedule.poll_at(settings)
        assert self._table is not None
        changed = self._table.changed()
        if not (self._remote and self.there) or changed or now >= poll_at:
            # A server that does not answer is asked no more often than it must be.
            self._check(changed)
        if self.there:
            if now >= self._schedule.rescan_at(settings):
                self._walk(lambda listener: listener.tree.renew())
                self._rescan("it is time to look through everything")
                self._tell_health()
            elif now >= self._schedule.poll_at(settings) and self._is_polled:
                self._poll()
            self._see_how_it_goes()
        self._ticked_at = time.monotonic()
        self._tick_at = self._ticked_at + self._plan.check
        if self.there:
            poll_at = self._schedule.poll_at(settings) if self._is_polled else self._tick_at
            self._tick_at = min(self._tick_at, poll_at, self._schedule.rescan_at(settings))

    @property
    def _is_polled(self) -> bool:
        return bool(self._remote) or self._told[0] == "degraded"

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
        self._schedule.polled(time.monotonic())
        self._tell_health()

    def _rescan(self, reason: str, *, view: bool = False) -> None:
        self.queue_event(RescanEvent(self._root, reason=reason, view=view))
        self._schedule.rescanned(time.monotonic())

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
            self._ears.unregister(self._listener.instance.fd)
            self._listener.instance.close()
            self._listener = None

    def _close(self) -> None:
        self._alarm.close()
        self._drop_listener()
        if self._table is not None:
            self._table.close()
