"""Whoever does as the news say knows at the end what is there, whatever was done and however fast."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lorad.watch.mounts import is_below
from lorad.watch.news import Dirty, News, Rescan
from lorad.watch.scanner import walk
from tests.daemon.watch.conftest import Begin, limited

Known = dict[bytes, tuple[int, int, int]]


class Follower:
    """Plays the core: looks at the names that are told, and through the folders."""

    def __init__(self, root: bytes, state_dir: bytes) -> None:
        self.root = root
        self.without = state_dir
        self.known: Known = {}

    def look_through(self, folder: bytes) -> Known:
        if not os.path.isdir(folder):
            return {}
        seen = walk([folder], follow=False, without=[self.without])
        return {
            item.path: (item.status.st_ino, item.status.st_size, item.status.st_mtime_ns)
            for item in seen
            if item.status
        }

    def follow(self, news: list[News]) -> None:
        for item in news:
            if isinstance(item, Rescan):
                self._drop(item.folder)
                self.known |= self.look_through(item.folder)
            elif isinstance(item, Dirty) and not os.path.isdir(item.path):
                self._drop(item.path)
                with contextlib.suppress(OSError):
                    status = os.lstat(item.path)
                    self.known[item.path] = (status.st_ino, status.st_size, status.st_mtime_ns)

    def _drop(self, path: bytes) -> None:
        for name in [name for name in self.known if is_below(name, path)]:
            del self.known[name]


class Chaos:
    """Does anything to a tree, of a few names, so that they meet again and again."""

    def __init__(self, root: bytes, outside: bytes, seed: int) -> None:
        self._root = root
        self._outside = outside
        self._random = random.Random(seed)

    def act(self) -> None:
        doing: Callable[[], None] = self._random.choice(
            [self._write, self._write, self._append, self._make, self._make, self._move, self._move, self._remove]
        )
        try:
            doing()
        except OSError:
            # No such folder, or it lies in itself: others do such things too.
            return

    def _path(self) -> bytes:
        start = self._outside if self._random.random() < 0.15 else self._root
        return os.path.join(start, *self._random.choices([b"a", b"b", b"c\xff"], k=self._random.randint(1, 4)))

    def _write(self) -> None:
        with open(self._path() + b".pt", "wb") as file:
            file.write(self._random.randbytes(self._random.randint(0, 9)))

    def _append(self) -> None:
        with open(self._path() + b".pt", "ab") as file:
            file.write(b"x")

    def _make(self) -> None:
        path = self._path()
        os.makedirs(path, exist_ok=True)
        with open(path + b"/0.pt", "wb"):
            pass

    def _move(self) -> None:
        suffix = self._random.choice([b"", b"", b".pt"])
        os.rename(self._path() + suffix, self._path() + suffix)

    def _remove(self) -> None:
        if self._random.random() < 0.5:
            os.unlink(self._path() + b".pt")
        else:
            shutil.rmtree(self._path())


@pytest.mark.parametrize("seed", range(int(os.environ.get("LORAD_HISTORIES", "5"))))
def test_nothing_is_missed_whatever_happens(root: bytes, begin: Begin, tmp_path: Path, seed: int) -> None:
    _live(root, begin, tmp_path, seed, steps=800)


def test_nothing_is_missed_when_the_kernels_queue_overflows_all_the_time(
    root: bytes, begin: Begin, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make the queue shorter")
    with limited("max_queued_events", 8):
        for seed in range(2):
            _live(root, begin, tmp_path, 1000 + seed, steps=600)


def _live(root: bytes, begin: Begin, tmp_path: Path, seed: int, steps: int) -> None:
    """Two do things at the same time; now and then everybody stops, and what is known is what is there."""
    outside = os.fsencode(tmp_path) + b"/outside"
    os.makedirs(outside, exist_ok=True)
    watched = begin(root)
    follower = Follower(root, os.fsencode(tmp_path / "state"))
    follower.follow(watched.told)
    chaoses = [Chaos(root, outside, 2 * seed + number) for number in range(2)]
    for _ in range(4):
        threads = [threading.Thread(target=_act, args=(chaos, steps // 8)) for chaos in chaoses]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            threads[0].join(0.005)
            follower.follow(watched.watcher.take())
        follower.follow(watched.synced())
        assert follower.known == follower.look_through(root)
        assert watched.health().health == "watching"
        assert watched.health().folders == sum(1 for _ in os.walk(root))


def _act(chaos: Chaos, times: int) -> None:
    for _ in range(times):
        chaos.act()
