"""A watch over real folders, with what it told so far."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from loracore.config import Watch
from lorad.watch.news import Dirty, HealthChanged, News, Rescan, RootHealth, Synced
from lorad.watch.watcher import Watcher

#: Nobody's: what it may have of inotify is counted from nothing.
OTHER_USER = 64_123
SECONDS = 10.0


class Watched:
    """A watcher, and everything that it told."""

    def __init__(
        self,
        *roots: bytes,
        state_dir: bytes,
        links: Mapping[bytes, bytes] | None = None,
        settings: Watch | None = None,
        waits: Mapping[str, float] | None = None,
    ) -> None:
        self._news = threading.Event()
        self._token = 0
        self.told: list[News] = []
        self.settings = settings or Watch()
        self.roots = roots
        self.watcher = Watcher(
            roots,
            links=links,
            state_dir=state_dir,
            settings=self.settings,
            wake=self._news.set,
            **(waits or {}),
        )

    def until(self, condition: Callable[[list[News]], bool], seconds: float = SECONDS) -> list[News]:
        """Wait for something to be told; all that was told since the last time."""
        news: list[News] = []
        deadline = time.monotonic() + seconds
        while True:
            self._news.clear()
            news += self.watcher.take()
            if condition(news):
                self.told += news
                return news
            assert self._news.wait(deadline - time.monotonic()), f"waited in vain; told was {news[-20:]}"

    def rescanned(self, folder: bytes, seconds: float = SECONDS) -> list[News]:
        return self.until(
            lambda news: any(isinstance(item, Rescan) and item.folder == folder for item in news), seconds
        )

    def becomes(self, health: str, root: bytes | None = None, seconds: float = SECONDS) -> list[News]:
        root = root or self.roots[0]
        return self.until(
            lambda news: any(isinstance(item, HealthChanged) and item[:2] == (root, health) for item in news),
            seconds,
        )

    def synced(self) -> list[News]:
        """All that was told of what happened before this."""
        self._token += 1
        self.watcher.sync(self._token)
        news = self.until(lambda news: Synced(self._token) in news)
        assert news[-1] == Synced(self._token)
        return news[:-1]

    def health(self, root: bytes | None = None) -> RootHealth:
        (health,) = [health for health in self.watcher.health() if health.path == (root or self.roots[0])]
        return health


Begin = Callable[..., Watched]


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    folder = tmp_path / "models"
    folder.mkdir()
    return os.fsencode(folder)


@pytest.fixture
def waits() -> Mapping[str, float]:
    """What a watcher's waits are, where they are not its own."""
    return {}


@pytest.fixture
def begin(tmp_path: Path, waits: Mapping[str, float]) -> Iterator[Begin]:
    """Starts a watch over roots, and waits until it is one, or is as good as it gets."""
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    begun: list[Watched] = []

    def begin(
        *roots: bytes,
        state: bytes | None = None,
        links: Mapping[bytes, bytes] | None = None,
        here: bool = True,
        **settings: object,
    ) -> Watched:
        watched = Watched(
            *roots,
            state_dir=state or os.fsencode(state_dir),
            links=links,
            settings=Watch(**settings),  # type: ignore[arg-type]
            waits=waits,
        )
        begun.append(watched)
        watched.watcher.start()
        # Health, and where the root is there, the first look through it.
        missing = {root for root in roots if not (here and os.path.isdir(root))}
        watched.until(
            lambda news: (
                {item.root for item in news if isinstance(item, HealthChanged)} >= set(roots)
                and {item.folder for item in news if isinstance(item, Rescan)} >= set(roots) - missing
            )
        )
        return watched

    yield begin
    for watched in begun:
        watched.watcher.stop()


@pytest.fixture
def as_other_user(begin: Begin) -> Iterator[bytes]:
    """This process is another user, who may not read everything; a folder of that user's."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, OTHER_USER, OTHER_USER)
        groups = os.getgroups()
        os.setgroups([])
        os.setegid(OTHER_USER)
        os.seteuid(OTHER_USER)
        try:
            yield os.fsencode(folder)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)


@contextlib.contextmanager
def limited(name: str, value: int) -> Iterator[None]:
    """Another limit of inotify's for a while."""
    path = Path(f"/proc/sys/fs/inotify/{name}")
    before = path.read_text()
    user = os.geteuid()
    os.seteuid(0)
    try:
        path.write_text(str(value))
    except OSError as error:
        pytest.skip(f"{path} cannot be changed: {error}")
    finally:
        os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        path.write_text(before)
        os.seteuid(user)


@contextlib.contextmanager
def mounted(folder: bytes, what: str = "tmpfs") -> Iterator[None]:
    """An empty file system on a folder; one that is unmounted meanwhile stays so."""
    mount(folder, what)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False, capture_output=True)


def mount(folder: bytes, what: str = "tmpfs") -> None:
    result = subprocess.run(["mount", "-t", what, "none", folder], check=False, capture_output=True)
    if result.returncode:
        pytest.skip(f"nothing can be mounted here: {result.stderr.decode()}")


def dirty(news: list[News]) -> dict[bytes, bool]:
    """The names told, with the last word on whether they are closed."""
    return {item.path: item.closed for item in news if isinstance(item, Dirty)}


def rescans(news: list[News]) -> set[bytes]:
    return {item.folder for item in news if isinstance(item, Rescan)}


def write(path: bytes, content: bytes = b"x") -> bytes:
    with open(path, "wb") as file:
        file.write(content)
    return path
