"""Whether one root is there, how it is watched, and when it is looked through, as events for watchdog's queue."""

from __future__ import annotations

import time
from collections.abc import Callable

from watchdog.events import FileSystemEvent

from lorad.watch import timed_calls
from lorad.watch.coverage import Coverage
from lorad.watch.events import EchoEvent, HealthEvent, LedEvent, RescanEvent
from lorad.watch.mounts import MountTable
from lorad.watch.place import Absent, locate
from lorad.watch.root_settings import Plan, Schedule


class RootState:
    """What is known of a root, and said of it when it changes. Its thread says when to look."""

    def __init__(self, plan: Plan, coverage: Coverage, emit: Callable[[FileSystemEvent], None]) -> None:
        self._plan = plan
        self._root = plan.root
        self.coverage = coverage
        self._emit = emit
        self._place = plan.memory.place(plan.root)
        self._schedule = Schedule()
        self._told = ("", "")
        #: Paths that do not lead to the root any more, as it was told.
        self._led: dict[bytes, bytes] = {}
        #: Whether the root is there; None until that is known.
        self.there: bool | None = None

    def hear(self, table: MountTable) -> None:
        """Say what happened in the root."""
        # A name is not gone because its root is: so that is asked first.
        self._check(table)
        listener = self.coverage.listener
        if listener is not None and listener.hear():
            self._check(table)
            if self.coverage.listener is listener and listener.lost:
                # The same disk, or a folder of the same number, was back before anyone looked.
                self._enter(table, "it was away for a moment", view=listener.lost_root)
        self._see_how_it_goes()

    def tick(self, table: MountTable) -> float:
        """Do what it is time for; when to do so again."""
        settings, now = self._plan.settings(), time.monotonic()
        poll_at = self._schedule.poll_at(settings)
        changed = table.changed()
        if not (self.coverage.remote and self.there) or changed or now >= poll_at:
            # A server that does not answer is asked no more often than it must be.
            self._check(table, changed)
        if self.there:
            if now >= self._schedule.rescan_at(settings):
                self.coverage.renew()
                self._rescan("it is time to look through everything")
                self._tell_health()
            elif now >= self._schedule.poll_at(settings) and self._is_polled:
                self._poll(table)
            self._see_how_it_goes()
        next_at = time.monotonic() + self._plan.check
        if self.there:
            poll_at = self._schedule.poll_at(settings) if self._is_polled else next_at
            next_at = min(next_at, poll_at, self._schedule.rescan_at(settings))
        return next_at

    # Whether it is there

    def _check(self, table: MountTable, changed: bool = False) -> None:
        """Look whether the root is there, and is what it was. `changed`: the mounts are not what they were."""
        self._see_where_links_lead()
        changed = table.changed() or changed
        try:
            place = locate(self._root, table.mounts, self._place)
        except Absent as absent:
            self._leave(str(absent))
            return
        before, self._place = self._place, place
        self._plan.memory.keep(self._root, place)
        if self.there is None:
            self._enter(table, "the folder is watched now")
        elif not self.there:
            self._enter(table, "the folder is there again", view=True)
        elif before is not None and place[:2] != before[:2]:
            self._enter(table, "another folder is in its place", view=True)
        elif changed and self.coverage.mounts_changed(table.mounts):
            self._rescan("something was mounted or unmounted in the folder")
            self._tell_health()

    def _see_where_links_lead(self) -> None:
        for link in self._plan.links():
            leads = timed_calls.real(link, self._led.get(link, self._root))
            if leads != self._led.get(link, self._root):
                self._led[link] = leads
                self._emit(LedEvent(self._root, link=link, leads=leads))

    def _enter(self, table: MountTable, reason: str, *, view: bool = False) -> None:
        """The root is there: watch it, and then have it looked through."""
        self.coverage.end()
        self.there = True
        number = self._plan.canary.sent
        self.coverage.begin(table.mounts)
        self._tell_health()
        self._rescan(reason, view=view)
        # Looking through everything is an answer to all canaries that were made before.
        self._emit(EchoEvent(self._root, number=number))

    def _leave(self, reason: str) -> None:
        """The root is not there. What was in it is not gone for that."""
        number, was_there = self._plan.canary.sent, self.there
        self.coverage.end()
        self.there = False
        self._say_health("missing", reason)
        if was_there is not False:
            self._emit(EchoEvent(self._root, number=number))

    # Looking through it

    @property
    def _is_polled(self) -> bool:
        return bool(self.coverage.remote) or self._told[0] == "degraded"

    def _poll(self, table: MountTable) -> None:
        """Look through what nothing tells of, after trying whether it can be watched now."""
        for folder in self.coverage.retry(table.mounts):
            self._emit(RescanEvent(folder, reason="nothing tells of changes here"))
        self._schedule.polled(time.monotonic())
        self._tell_health()

    def _rescan(self, reason: str, *, view: bool = False) -> None:
        self._emit(RescanEvent(self._root, reason=reason, view=view))
        self._schedule.rescanned(time.monotonic())

    # How it is watched

    def _tell_health(self) -> None:
        self._say_health(*self.coverage.health())

    def _see_how_it_goes(self) -> None:
        listener = self.coverage.listener
        if listener is not None and listener.sound != (self._told[0] == "watching"):
            self._tell_health()

    def _say_health(self, health: str, reason: str) -> None:
        if (health, reason) != self._told:
            self._told = (health, reason)
            self._emit(HealthEvent(self._root, health=health, reason=reason))
