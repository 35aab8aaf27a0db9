"""The watch over all roots, and its keeper, who sees to it that it is one."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loracore.config import Watch
from lorad.watch.canary import Canary
from lorad.watch.echoes import LifeCheck, Sync
from lorad.watch.exclude import Exclude, LeftOut
from lorad.watch.news import Inbox, News, RootHealth
from lorad.watch.place import Memory
from lorad.watch.root_news import RootObserver, end
from lorad.watch.root_settings import Plan

_LOG = logging.getLogger(__name__)

#: Seconds between looks whether a root is there; and those that the echo of a canary may take before a watch is
#: taken for dead.
_CHECK, _ECHO = 2.0, 3.0
#: Seconds at most between two turns of the keeper.
_TURN = 5.0
#: A watch that fails again within this many seconds waits longer each time before it is made anew.
_CALM = 120.0
_PATIENCE = 60.0
#: Seconds that threads have to end.
_STOP = 0.9


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
        self._check = check
        self._without = tuple({state_dir, os.path.realpath(state_dir)})
        self._canary = Canary(os.path.join(os.path.realpath(state_dir), b"run"))
        self._memory = Memory(os.path.join(self._canary.folder, b"mounts.json"))
        self._inbox = Inbox(wake)
        self._observers: dict[bytes, RootObserver] = {}
        self._failures: dict[bytes, _Failure] = {}
        self._life = LifeCheck(self._canary, echo, self._has_failed)
        self._syncs: list[Sync] = []
        self._failed: list[tuple[bytes, str]] = []
        self._changed = threading.Condition(threading.RLock())
        self._stopping = False
        self._keeper = threading.Thread(target=self._keep, name="watch-keeper", daemon=True)
        self._turned_at = time.monotonic()

    # For the core

    def start(self) -> None:
        """Begin to watch. Returns at once; how far that is, `health` and the news say."""
        with contextlib.suppress(OSError):
            # Without it there are no signs of life, which the roots' health says.
            self._canary.clean()
        self._life.next_at = time.monotonic() + self._settings.canary_seconds
        self.set_roots(self._roots, self._links)
        self._keeper.start()

    def stop(self) -> None:
        """End; within a second, whatever the disks do."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
            observers = list(self._observers.values())
        end(observers, _STOP)
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
        end(gone, _STOP)

    def set_settings(self, settings: Watch) -> None:
        """Take over new times, within a few seconds. Where other names count, all roots are watched anew."""
        with self._changed:
            before = self._settings
            self._settings = settings
            self._life.next_at = min(self._life.next_at, time.monotonic() + settings.canary_seconds)
            old = list(self._observers.values())
            if (before.follow_symlinks, before.exclude) == (settings.follow_symlinks, settings.exclude):
                old = []
            for observer in old:
                self._failures.pop(observer.root, None)
                self._observe(observer.root)
            self._changed.notify()
        end(old, _STOP)

    def take(self) -> list[News]:
        """What is new since the last time; health first, then folders, names and answers to `sync`."""
        return self._inbox.take()

    def sync(self, token: int) -> None:
        """Have `Synced(token)` told once all that happened before this call has been.

        A root that is missing is not waited for: nothing can be said of it.
        """
        with self._changed:
            self._syncs.append(Sync(token))
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

    def _wake_keeper(self) -> None:
        with self._changed:
            if self._syncs or self._life.listens:
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
                sync.begin(now, self._canary, self._observers.values(), self._inbox)
        self._syncs = [sync for sync in self._syncs if not sync.is_over(now, self._inbox)]
        self._life.look(now, self._observers.values(), self._settings.canary_seconds)
        for observer in self._observers.values():
            observer.ask()
        failed, self._failed = self._failed, []
        for root, reason in failed:
            self._give_up(root, reason, now)
        for root, failure in self._failures.items():
            if failure.retry is not None and now >= failure.retry:
                failure.retry = None
                self._observe(root)
        retries = [failure.retry for failure in self._failures.values() if failure.retry is not None]
        return min([self._life.due, *retries, *(sync.deadline for sync in self._syncs)])

    def _give_up(self, root: bytes, reason: str, now: float) -> None:
        """A root's watch has failed: make it anew, at once for the first time."""
        observer = self._observers.get(root)
        if observer is None or observer.retired:
            return
        before = self._failures.get(root)
        times = before.times + 1 if before is not None and now - before.at < _CALM else 0
        wait = 0.0 if times == 0 else min(_PATIENCE, 2.0**times)
        self._failures[root] = _Failure(times, now, now + wait)
        observer.give_up(reason, now)
