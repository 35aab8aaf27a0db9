"""What the echoes of canaries say: which watches are alive, and that all that happened before has been told."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass

from lorad.watch.canary import Canary
from lorad.watch.news import Inbox
from lorad.watch.root_news import RootObserver

#: Seconds that a `wait` allows for echoes.
_SYNC = 2.0
#: A look that is this late says that everything was at a standstill, not the watch alone.
_LATE = 1.0
_UNCERTAIN = "it is not certain that all changes were noticed"


class LifeCheck:
    """Sends a canary from time to time, and sees which roots' watches have heard it."""

    def __init__(self, canary: Canary, echo: float, failed: Callable[[bytes, str], None]) -> None:
        """`echo`: seconds that an echo may take; `failed` gets the root of a watch that is dead, and why it is."""
        self._canary = canary
        self._echo = echo
        self._failed = failed
        #: When the next one is sent.
        self.next_at = 0.0
        #: The canary that is listened for: its number, until when, and how far each root was when it was sent.
        self._sent: tuple[int, float, dict[RootObserver, int]] | None = None

    @property
    def listens(self) -> bool:
        return self._sent is not None

    @property
    def due(self) -> float:
        """When to look again."""
        return self._sent[1] if self._sent else self.next_at

    def look(self, now: float, observers: Collection[RootObserver], every: float) -> None:
        """See who has heard the last canary, and send one when it is time, `every` so many seconds."""
        if self._sent is not None:
            number, deadline, beats = self._sent
            silent = [observer for observer in beats if observer.heard < number and not observer.retired]
            for observer in beats.keys() - silent:
                observer.set_hangs(observer.hangs and observer.retired)
            if not silent:
                self._sent = None
            elif now > deadline + _LATE:
                self._sent = (number, now + self._echo, beats)
            elif now >= deadline:
                self._sent = None
                for observer in silent:
                    self._is_silent(observer, beats[observer])
        if self._sent is None and now >= self.next_at:
            self.next_at = now + every
            self._send(now, observers)

    def _send(self, now: float, observers: Collection[RootObserver]) -> None:
        for observer in observers:
            if not observer.retired and not observer.alive:
                self._failed(observer.root, "a thread of it ended")
        with contextlib.suppress(OSError):
            # Where no file can be made (a full disk), there is no sign of life, which is no sign of death.
            number = self._canary.send()
            beats = {each: each.emitter.beats for each in observers if each.state.coverage.echoes}
            self._sent = (number, now + self._echo, beats)

    def _is_silent(self, observer: RootObserver, beats: int) -> None:
        """`beats`: how far it was when the canary was sent."""
        if not observer.state.coverage.walking:
            self._failed(observer.root, "it gave no sign of life")
        elif observer.emitter.beats == beats:
            # A new one would hang where this one does.
            observer.set_hangs(True)


@dataclass
class Sync:
    """A `wait`: it is answered when all that happened until now has been told."""

    token: int
    number: int = 0
    asked: tuple[RootObserver, ...] = ()
    waiting: tuple[RootObserver, ...] = ()
    deadline: float = 0.0
    begun: bool = False

    def begin(self, now: float, canary: Canary, observers: Collection[RootObserver], inbox: Inbox) -> None:
        self.begun, self.deadline = True, now + _SYNC
        try:
            self.number = canary.send()
        except OSError:
            # Nobody can echo what was not sent: all that would have is looked through, at once.
            self.number, self.deadline = sys.maxsize, now
        waiting = []
        for observer in observers:
            there = observer.state.there
            if there is None or (observer.health == "watching" and observer.state.coverage.echoes):
                waiting.append(observer)
            elif there:
                inbox.rescan(observer.root, _UNCERTAIN)
        self.asked = self.waiting = tuple(waiting)

    def is_over(self, now: float, inbox: Inbox) -> bool:
        """Whether an answer has been given: all have echoed, or those that have not are to be looked through."""
        self.waiting = tuple(each for each in self.waiting if not each.retired and each.heard < self.number)
        if self.waiting and now < self.deadline:
            return False
        for observer in self.asked:
            # Its health was told before it echoed, so it holds for the time until then.
            if observer.state.there and (observer in self.waiting or observer.health != "watching"):
                inbox.rescan(observer.root, _UNCERTAIN)
        inbox.synced(self.token)
        return True
