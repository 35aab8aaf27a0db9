"""The watch over all roots, and its keeper, who sees to it that it is one."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loracore.config import Watch
from lorad.watch import calls
from lorad.watch.canary import Canary
from lorad.watch.exclude import Exclude, LeftOut
from lorad.watch.news import Inbox, News, RootHealth
from lorad.watch.place import Memory
from lorad.watch.root_news import RootObserver
from lorad.watch.root_settings import Plan

_LOG = logging.getLogger(__name__)

#: Seconds between looks whether a root is there; and those that the echo of a canary may take before a watch is
#: taken for dead.
_CHECK, _ECHO = 2.0, 3.0
#: The same when somebody waits for it.
_SYNC = 2.0
#: Seconds at most between two turns of the keeper.
_TURN = 5.0
#: A keeper's turn that is this late says that everything was at a standstill, not the watch alone.
_LATE = 1.0
#: A watch that fails again within this many seconds waits longer each time before it is made anew.
_CALM = 120.0
_PATIENCE = 60.0
_STOP = 0.9


@dataclass
class _Sync:
    """Somebody wants to know when all that happened until now has been told."""

    token: int
    number: int = 0
    asked: tuple[RootObserver, ...] = ()
    waiting: tuple[RootObserver, ...] = ()
    deadline: float = 0.0
    begun: bool = False


@dataclass
class _Failure:
    """A root whose watch failed `times` times in a row, the last at `at`, and is made anew at `retry`."""

    times: int
    at: float
    retry: float | None


class Watcher:
    """Watches folders and tells what happened in them, without missing any of it silently.

    What cannot be told name by name is told as a folder to look through. After `start` and after `set_roots`,
    each new root that is there is told as one once it is watched.
    """

    def __init__(
        self,
        roots: Sequence[bytes],
        *,
        links: Mapping[bytes, bytes] | None = None,
        state_dir: bytes,
        settings: Watch,
        wake: Callable[[], None],
        check: float = _CHECK,
        echo: float = _ECHO,
    ) -> None:
        """`roots` are absolute and without links; for `links` see `set_roots`. Those of `settings` do not count.

        Any thread calls `wake` when `take` has something new.
        """
        self._roots = tuple(roots)
        self._links = dict(links or {})
        self._settings = settings
        self._check, self._echo = check, echo
        self._without = tuple({state_dir, os.path.realpath(state_dir)})
        self._canary = Canary(os.path.join(os.path.realpath(state_dir), b"run"))
        self._memory = Memory(os.path.join(self._canary.folder, b"mounts.json"))
        self._inbox = Inbox(wake)
        self._observers: dict[bytes, RootObserver] = {}
        self._failures: dict[bytes, _Failure] = {}
        self._syncs: list[_Sync] = []
        self._failed: list[tuple[bytes, str]] = []
        self._changed = threading.Condition(threading.RLock())
        self._stopping = False
        self._keeper = threading.Thread(target=self._keep, name="watch-keeper", daemon=True)
        self._turned_at = time.monotonic()
        self._canary_at = 0.0
        #: The canary that is listened for: its number, until when, and how far each root was when it was sent.
        self._sent: tuple[int, float, dict[RootObserver, int]] | None = None

    # For the core

    def start(self) -> None:
        """Begin to watch. Returns at once; how far that is, `health` and the news say."""
        with contextlib.suppress(OSError):
            # Without it there are no signs of life, which the roots' health says.
            self._canary.clean()
        self._canary_at = time.monotonic() + self._settings.canary_seconds
        self.set_roots(self._roots, self._links)
        self._keeper.start()

    def stop(self) -> None:
        """End; within a second, whatever the disks do."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
            observers = list(self._observers.values())
        self._end(observers)
        if self._keeper.ident is not None:
            self._keeper.join(_STOP)

    def set_roots(self, roots: Sequence[bytes], links: Mapping[bytes, bytes] | None = None) -> None:
        """Watch these from now on. Those that were watched before are not disturbed.

        `links`: paths and the root that each leads to. When one leads elsewhere, `Led` is told.
        """
        with self._changed:
            self._roots, self._links = tuple(roots), dict(links or {})
            gone = [self._observers.pop(root) for root in list(self._observers) if root not in roots]
            for observer in gone:
                self._failures.pop(observer.root, None)
                self._memory.forget(observer.root)
            self._inbox.set_roots(roots)
            for root in roots:
                if root not in self._observers:
                    self._observe(root)
        self._end(gone)

    def set_settings(self, settings: Watch) -> None:
        """Take over new times, within a few seconds. Where other names count, all roots are watched anew."""
        with self._changed:
            before = self._settings
            self._settings = settings
            self._canary_at = min(self._canary_at, time.monotonic() + settings.canary_seconds)
            old = list(self._observers.values())
            if (before.follow_symlinks, before.exclude) == (settings.follow_symlinks, settings.exclude):
                old = []
            for observer in old:
                self._failures.pop(observer.root, None)
                self._observe(observer.root)
            self._changed.notify()
        self._end(old)

    def take(self) -> list[News]:
        """What is new since the last time; health first, then folders, names and answers to `sync`."""
        return self._inbox.take()

    def sync(self, token: int) -> None:
        """Have `Synced(token)` told once all that happened before this call has been.

        A root that is missing is not waited for: nothing can be said of it.
        """
        with self._changed:
            self._syncs.append(_Sync(token))
            self._changed.notify()

    def health(self) -> list[RootHealth]:
        """How each root is watched now."""
        with self._changed:
            observers = list(self._observers.values())
        return [RootHealth(each.root, *each.says(), each.state.coverage.folders) for each in observers]

    def silent_seconds(self) -> float:
        """Seconds since the keeper was last seen at work. Over a quarter of a minute, something is badly wrong."""
        return time.monotonic() - self._turned_at

    # The roots

    def _observe(self, root: bytes) -> None:
        plan = Plan(
            root,
            lambda: [link for link, leads in self._links.items() if leads == root],
            self._settings.follow_symlinks,
            LeftOut(Exclude(self._settings.exclude, self._roots), self._without),
            lambda: self._settings,
            self._canary,
            self._memory,
            lambda reason: self._has_failed(root, reason),
            self._check,
        )
        observer = self._observers[root] = RootObserver(plan, self._inbox, self._wake_keeper)
        try:
            observer.start()
        except RuntimeError as error:
            # There can be no more threads.
            self._has_failed(root, str(error))

    def _end(self, observers: Sequence[RootObserver]) -> None:
        deadline = time.monotonic() + _STOP
        for observer in observers:
            observer.retire()
        for observer in observers:
            observer.join(deadline)

    def _wake_keeper(self) -> None:
        with self._changed:
            if self._syncs or self._sent:
                self._changed.notify()

    def _has_failed(self, root: bytes, reason: str) -> None:
        with self._changed:
            self._failed.append((root, reason))
            self._changed.notify()

    # The keeper

    def _keep(self) -> None:
        with self._changed:
            while not self._stopping:
                due = time.monotonic() + _TURN
                try:
                    due = self._turn(time.monotonic())
                except Exception:
                    # The watch goes on, and says what it met.
                    _LOG.exception("a mistake in lorad: keeping the watch")
                self._turned_at = time.monotonic()
                self._changed.wait(max(0.0, min(due - self._turned_at, _TURN)))

    def _turn(self, now: float) -> float:
        """See after everything; when to do so again."""
        for sync in self._syncs:
            if not sync.begun:
                self._begin(sync, now)
        self._syncs = [sync for sync in self._syncs if not self._is_over(sync, now)]
        self._listen(now)
        self._ask()
        failed, self._failed = self._failed, []
        for root, reason in failed:
            self._give_up(root, reason, now)
        for root, failure in self._failures.items():
            if failure.retry is not None and now >= failure.retry:
                failure.retry = None
                self._observe(root)
        retries = [failure.retry for failure in self._failures.values() if failure.retry is not None]
        canary = self._sent[1] if self._sent else self._canary_at
        return min([canary, *retries, *(sync.deadline for sync in self._syncs)])

    def _begin(self, sync: _Sync, now: float) -> None:
        sync.begun, sync.deadline = True, now + _SYNC
        try:
            sync.number = self._canary.send()
        except OSError:
            # Nobody can echo what was not sent: all that would have is looked through, at once.
            sync.number, sync.deadline = sys.maxsize, now
        waiting = []
        for observer in self._observers.values():
            if observer.state.there is None or (observer.health == "watching" and observer.state.coverage.echoes):
                waiting.append(observer)
            elif observer.state.there:
                self._inbox.rescan(observer.root, "it is not certain that all changes were noticed")
        sync.asked = sync.waiting = tuple(waiting)

    def _is_over(self, sync: _Sync, now: float) -> bool:
        """Whether an answer has been given: all have echoed, or those that have not are to be looked through."""
        sync.waiting = tuple(
            observer for observer in sync.waiting if not observer.retired and observer.heard < sync.number
        )
        if sync.waiting and now < sync.deadline:
            return False
        for observer in sync.asked:
            # Its health was told before it echoed, so it holds for the time until then.
            if observer.state.there and (observer in sync.waiting or observer.health != "watching"):
                self._inbox.rescan(observer.root, "it is not certain that all changes were noticed")
        self._inbox.synced(sync.token)
        return True

    def _listen(self, now: float) -> None:
        """Send a canary when it is time, and see who has heard the last one when it has been."""
        if self._sent is not None:
            number, deadline, beats = self._sent
            silent = [observer for observer in beats if observer.heard < number and not observer.retired]
            for observer in beats.keys() - silent:
                self._hangs(observer, observer.hangs and observer.retired)
            if not silent:
                self._sent = None
            elif now > deadline + _LATE:
                self._sent = (number, now + self._echo, beats)
            elif now >= deadline:
                self._sent = None
                for observer in silent:
                    self._is_silent(observer, beats[observer])
        if self._sent is None and now >= self._canary_at:
            self._canary_at = now + self._settings.canary_seconds
            self._send(now)

    def _ask(self) -> None:
        """See whether the file systems of the roots answer, where they may not."""
        for observer in self._observers.values():
            if calls.hangs(observer.root) != observer.silent:
                observer.silent = not observer.silent
                self._inbox.health(observer.root, *observer.says())
                if not observer.silent:
                    self._inbox.rescan(observer.root, "its file system answers again")

    def _send(self, now: float) -> None:
        for observer in self._observers.values():
            if not observer.retired and not observer.alive:
                self._failed.append((observer.root, "a thread of it ended"))
        with contextlib.suppress(OSError):
            # Where no file can be made (a full disk), there is no sign of life, which is no sign of death.
            number = self._canary.send()
            listening = [observer for observer in self._observers.values() if observer.state.coverage.echoes]
            self._sent = (number, now + self._echo, {observer: observer.emitter.beats for observer in listening})

    def _is_silent(self, observer: RootObserver, beats: int) -> None:
        emitter = observer.emitter
        if not observer.state.coverage.walking:
            self._failed.append((observer.root, "it gave no sign of life"))
        elif emitter.beats == beats:
            # A new one would hang where this one does.
            self._hangs(observer, True)

    def _hangs(self, observer: RootObserver, hangs: bool) -> None:
        if observer.hangs != hangs:
            observer.hangs = hangs
            self._inbox.health(observer.root, *observer.says())

    def _give_up(self, root: bytes, reason: str, now: float) -> None:
        """A root's watch has failed: make it anew, at once for the first time."""
        observer = self._observers.get(root)
        if observer is None or observer.retired:
            return
        before = self._failures.get(root)
        times = before.times + 1 if before is not None and now - before.at < _CALM else 0
        wait = 0.0 if times == 0 else min(_PATIENCE, 2.0**times)
        self._failures[root] = _Failure(times, now, now + wait)
        observer.retire()
        observer.join(now)
        self._observers[root].health = "degraded"
        self._observers[root].reason = f"its watch failed and is made anew: {reason}"
        self._inbox.health(root, observer.health, observer.reason)
