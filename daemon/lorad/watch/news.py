"""What the watch tells the core, and the inbox in which that waits to be taken."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from lorad.watch.mounts import is_below

#: Names kept before they become one look through everything.
_NAMES = 100_000
#: The same of folders to look through.
_FOLDERS = 1_000


class Dirty(NamedTuple):
    """Something happened to this name, file or folder: look what it leads to, which may be nothing.

    `closed`: nobody is known to be writing it any more. For a folder that is gone, all that was in it is gone.
    """

    path: bytes
    closed: bool


class Rescan(NamedTuple):
    """Anything in this folder, however deep, may have changed: look through all of it.

    `view`: all of it came into view at once, so what is not known of it is not new for that.
    """

    folder: bytes
    reason: str
    view: bool = False


class Led(NamedTuple):
    """A path that led to a root leads to another folder now; see `Watcher.set_roots`."""

    link: bytes
    leads: bytes


class Synced(NamedTuple):
    """All that happened on disk before `sync(token)` was called has been told."""

    token: int


class HealthChanged(NamedTuple):
    """A root is watched in another way than before. `health`: `watching`, `polling`, `degraded` or `missing`."""

    root: bytes
    health: str
    reason: str


class RootHealth(NamedTuple):
    """How a root is watched now. `folders`: those in which changes are noticed as they happen."""

    path: bytes
    health: str
    reason: str
    folders: int


News: TypeAlias = Dirty | Rescan | Led | Synced | HealthChanged


class Inbox:
    """News by any thread, for one to take. What is said twice is kept once, so a storm has a bounded size.

    What is taken together is in this order: health, where paths lead, folders, names, answers to `sync`.
    """

    def __init__(self, wake: Callable[[], None], names: int = _NAMES, folders: int = _FOLDERS) -> None:
        """`wake` is called, by the thread that brings the news, when there is some after there was none."""
        self._wake = wake
        self._names = names
        self._folders = folders
        self._lock = threading.Lock()
        self._roots: tuple[bytes, ...] = ()
        self._missing: set[bytes] = set()
        self._health: dict[bytes, HealthChanged] = {}
        self._led: dict[bytes, Led] = {}
        self._rescans: dict[bytes, Rescan] = {}
        self._dirty: dict[bytes, bool] = {}
        self._synced: list[Synced] = []

    def set_roots(self, roots: Sequence[bytes]) -> None:
        """These are looked through if there is ever too much to say. What is known of others is dropped."""
        with self._lock:
            gone = [root for root in self._roots if root not in roots]
            self._roots = tuple(roots)
            for root in gone:
                self._forget(root)
                self._health.pop(root, None)
                self._missing.discard(root)

    def dirty(self, path: bytes, closed: bool) -> None:
        with self._news():
            if path in self._dirty or len(self._dirty) < self._names:
                self._dirty[path] = closed
            else:
                self._dirty.clear()
                self._rescan_all("more happened than can be told name by name")

    def led(self, link: bytes, leads: bytes) -> None:
        with self._news():
            self._led[link] = Led(link, leads)

    def rescan(self, folder: bytes, reason: str, *, view: bool = False) -> None:
        with self._news():
            is_root = folder in self._roots
            waiting = [self._rescans[above] for above in _up(folder) if above in self._rescans]
            if not is_root and any(each.view or not view for each in waiting):
                return
            self._rescans[folder] = Rescan(folder, reason, view or any(each.view for each in waiting))
            if not is_root and len(self._rescans) > self._folders:
                self._rescan_all("more folders changed than can be told one by one")

    def health(self, root: bytes, health: str, reason: str) -> None:
        with self._news():
            self._missing.discard(root)
            if health == "missing":
                # Whatever was going to be said of its files would read as if they had been deleted.
                self._missing.add(root)
                self._forget(root)
            self._health[root] = HealthChanged(root, health, reason)

    def synced(self, token: int) -> None:
        with self._news():
            self._synced.append(Synced(token))

    def take(self) -> list[News]:
        """All that is new since the last time."""
        with self._lock:
            health, self._health = self._health, {}
            led, self._led = self._led, {}
            rescans, self._rescans = self._rescans, {}
            dirty, self._dirty = self._dirty, {}
            synced, self._synced = self._synced, []
        return [
            *health.values(),
            *led.values(),
            *rescans.values(),
            *(Dirty(path, closed) for path, closed in dirty.items()),
            *synced,
        ]

    @contextmanager
    def _news(self) -> Iterator[None]:
        with self._lock:
            idle = not (self._health or self._led or self._rescans or self._dirty or self._synced)
            yield
        if idle:
            self._wake()

    def _rescan_all(self, reason: str) -> None:
        waiting, self._rescans = self._rescans, {}
        for root in self._roots:
            if root not in self._missing:
                view = any(each.view for each in waiting.values() if is_below(each.folder, root))
                self._rescans[root] = Rescan(root, reason, view)

    def _forget(self, root: bytes) -> None:
        """Drop what waits of a root, other than what lies in a root of its own inside of it."""
        others = [other for other in self._roots if other != root and is_below(other, root)]
        for waiting in (self._dirty, self._rescans):
            for path in [path for path in waiting if is_below(path, root)]:
                if not any(is_below(path, other) for other in others):
                    del waiting[path]


def _up(folder: bytes) -> Iterator[bytes]:
    """A folder and all that it lies in."""
    while True:
        yield folder
        above = os.path.dirname(folder)
        if above == folder:
            return
        folder = above
