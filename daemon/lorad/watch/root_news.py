"""One watched root: what the watch over it has to know, and watchdog's observer, which makes its events news."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

from watchdog.events import FileModifiedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver

from lorad.watch import timed_calls
from lorad.watch.events import EchoEvent, HealthEvent, LedEvent, RescanEvent
from lorad.watch.news import Inbox
from lorad.watch.root import RootEmitter
from lorad.watch.root_settings import Plan


class RootObserver:
    """One root's observer and emitter, which share nothing with those of other roots.

    So a root whose disk does not answer holds up no other, and one can be given up and made anew.
    """

    def __init__(self, plan: Plan, inbox: Inbox, heard: Callable[[], None]) -> None:
        """`heard` is called when a canary was."""
        self.root = plan.root
        self._inbox = inbox
        self.health = "degraded"
        self.reason = "its folders are not watched yet"
        #: Whether its emitter has been seen to hang, whatever it last said of itself.
        self.hangs = False
        #: Whether its file system does not answer.
        self.silent = False
        #: The number of the last canary that was heard.
        self.heard = 0
        self.retired = False
        self._observer = BaseObserver(RootEmitter, plan=plan)
        # watchdog looks at the path that it is given, and a root may not answer. Our emitter has its own.
        self._observer.schedule(_Handler(self, inbox, heard), os.sep, recursive=True, follow_symlink=plan.follow)
        (emitter,) = self._observer.emitters
        assert isinstance(emitter, RootEmitter)
        self.emitter = emitter
        self.state = emitter.state

    @property
    def alive(self) -> bool:
        return self._observer.is_alive() and self.emitter.is_alive()

    def says(self) -> tuple[str, str]:
        """How the root is watched, and why so."""
        if self.silent:
            return "degraded", "its file system does not answer; see after its server or program"
        return ("degraded", "a folder in it does not answer") if self.hangs else (self.health, self.reason)

    def set_hangs(self, hangs: bool) -> None:
        if self.hangs != hangs:
            self.hangs = hangs
            self._inbox.health(self.root, *self.says())

    def ask(self) -> None:
        """See whether the root's file system answers, where it may not."""
        if timed_calls.hangs(self.root) != self.silent:
            self.silent = not self.silent
            self._inbox.health(self.root, *self.says())
            if not self.silent:
                self._inbox.rescan(self.root, "its file system answers again")

    def start(self) -> None:
        self._observer.start()

    def retire(self) -> None:
        """Say nothing from now on, and end as soon as possible."""
        self.retired = True
        self.emitter.stop()

    def join(self, deadline: float) -> bool:
        """After `retire`: wait for its threads up to a point in monotonic time; whether they have ended."""
        if self.emitter.ident is not None:
            self.emitter.join(max(0, deadline - time.monotonic()))
        # It waits for the emitter, which may hang in the kernel; then this goes on by itself when that comes back.
        threading.Thread(target=self._observer.stop, daemon=True, name="watch-reaper").start()
        if self._observer.ident is not None:
            self._observer.join(max(0, deadline - time.monotonic()))
        return not self.emitter.is_alive() and not self._observer.is_alive()

    def give_up(self, reason: str, now: float) -> None:
        """It has failed, and another one will take its place."""
        self.retire()
        self.join(now)
        self.health = "degraded"
        self.reason = f"its watch failed and is made anew: {reason}"
        self._inbox.health(self.root, self.health, self.reason)


def end(observers: Sequence[RootObserver], seconds: float) -> None:
    """End them all. Threads that have not ended after so many seconds do by themselves when they can."""
    deadline = time.monotonic() + seconds
    for observer in observers:
        observer.retire()
    for observer in observers:
        observer.join(deadline)


class _Handler(FileSystemEventHandler):
    def __init__(self, observer: RootObserver, inbox: Inbox, heard: Callable[[], None]) -> None:
        self._observer = observer
        self._inbox = inbox
        self._heard = heard

    def dispatch(self, event: FileSystemEvent) -> None:
        observer = self._observer
        if observer.retired:
            return
        path = os.fsencode(event.src_path)
        match event:
            case EchoEvent():
                observer.heard = max(observer.heard, event.number)
                self._heard()
            case RescanEvent():
                self._inbox.rescan(path, event.reason, view=event.view)
            case LedEvent():
                self._inbox.led(event.link, event.leads)
            case HealthEvent():
                observer.health, observer.reason = event.health, event.reason
                self._inbox.health(path, event.health, event.reason)
            case _:
                self._inbox.dirty(path, not isinstance(event, FileModifiedEvent))
