"""Newcomers that wait outlive the daemon, and nothing else becomes one by that (SPEC section 5)."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from loracore.control import ActionRefused, ActionTaken, DuplicateFound
from loracore.paths import CATALOGUE
from tests.integration.running import Running
from tests.integration.test_dedupe import daemon_with, kill_all, kill_daemon, library

NEW, LAST = "new.safetensors", "the last.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "loras"
    path.mkdir()
    library(path)
    return path


def reconfigured(daemon: Running, root: Path, **settings: str) -> None:
    """Give it another `[dedupe]` table, for its next start."""
    daemon.tables = "\n".join(["[dedupe]", *(f"{key} = {value}" for key, value in settings.items())])
    daemon.configure([root])


@contextmanager
def a_newcomer_waits(daemon: Running, root: Path) -> Iterator[Path]:
    """It is open for writing, and the daemon said so."""
    newcomer = root / NEW
    with daemon.client() as client, client.events(["refused"]) as events:
        shutil.copyfile(root / "1.safetensors", root / "part")
        with open(root / "part", "r+b"):
            os.rename(root / "part", newcomer)
            told = next(iter(events)).event
            assert isinstance(told, ActionRefused)
            assert told.path == os.fsencode(newcomer)
            yield newcomer
    assert newcomer.exists()


def next_action(daemon: Running, *, after: int = 0) -> str:
    """The name that is acted on by itself, after so many actions."""
    with daemon.client() as client, client.events(["action"]) as events:
        done = [entry.path for entry in client.history() if entry.state == "done"][after:]
        if not done:
            told = next(iter(events)).event
            assert isinstance(told, ActionTaken)
            done = [told.path]
    return os.path.basename(os.fsdecode(done[0]))


def only_the_last_is_acted_on(daemon: Running, root: Path) -> None:
    """Of all duplicates that there are, and of one that comes now."""
    daemon.settle()
    before = {path.name for path in root.iterdir()}
    shutil.copyfile(root / "2.safetensors", root / LAST)
    assert next_action(daemon) == LAST
    daemon.settle()
    assert {path.name for path in root.iterdir()} == before


@pytest.mark.parametrize("kill", [kill_daemon, kill_all, Running.stop], ids=["daemon", "all", "stopped"])
def test_a_newcomer_that_was_refused_is_acted_on_after_a_restart(
    root: Path, tmp_path: Path, kill: Callable[[Running], object]
) -> None:
    """By itself: nobody has to ask for it."""
    with daemon_with(tmp_path, root, "delete") as daemon:
        daemon.settle()
        with a_newcomer_waits(daemon, root):
            kill(daemon)
        daemon.revive()
        assert next_action(daemon) == NEW
        only_old = {"1.safetensors", "1 copy.safetensors", "1 edited.safetensors"}
        assert {path.name for path in root.glob("1*.safetensors")} == only_old


def test_a_newcomer_that_is_too_young_waits_on_after_a_kill(root: Path, tmp_path: Path) -> None:
    """With `min_age`, its time goes on from where it was."""
    with daemon_with(tmp_path, root, "delete", min_age=6.0) as daemon:
        daemon.settle()
        with daemon.client() as client, client.events(["duplicate"]) as events:
            shutil.copyfile(root / "1.safetensors", root / NEW)
            assert isinstance(next(iter(events)).event, DuplicateFound)
            kill_all(daemon)
        assert (root / NEW).exists()
        daemon.revive()
        assert next_action(daemon) == NEW
        assert time.time() - (root / "1.safetensors").stat().st_ctime >= 6


def test_a_newcomer_that_was_moved_while_no_daemon_ran_is_one(root: Path, tmp_path: Path) -> None:
    """Under its new name; that its old one waited is known before anything is looked at."""
    with daemon_with(tmp_path, root, "delete") as daemon:
        daemon.settle()
        with a_newcomer_waits(daemon, root) as newcomer:
            kill_daemon(daemon)
        newcomer.rename(root / "moved.safetensors")
        (root / "moved.safetensors").chmod(0o600)
        daemon.revive()
        assert next_action(daemon) == "moved.safetensors"


def test_an_old_file_that_takes_a_newcomers_name_is_left_alone(root: Path, tmp_path: Path) -> None:
    """Nor is anything done for a newcomer that is not there any more."""
    with daemon_with(tmp_path, root, "delete") as daemon:
        daemon.settle()
        with a_newcomer_waits(daemon, root) as newcomer:
            kill_daemon(daemon)
        (root / "2 copy.safetensors").rename(newcomer)
        daemon.revive()
        only_the_last_is_acted_on(daemon, root)


def test_an_old_file_that_takes_a_waiting_name_is_left_alone(root: Path, tmp_path: Path) -> None:
    """Also while the daemon runs, by rename or as a hard link."""
    with daemon_with(tmp_path, root, "delete", min_age=4.0) as daemon:
        daemon.settle()
        with daemon.client() as client, client.events(["duplicate", "action"]) as events:
            for name in ("one", "two", "three"):
                shutil.copyfile(root / "1.safetensors", root / name)
                (root / name).rename(root / f"{name}.safetensors")
            names = {os.path.basename(next(iter(events)).event.path) for _ in range(3)}
            assert names == {b"one.safetensors", b"two.safetensors", b"three.safetensors"}
            (root / "2 copy.safetensors").rename(root / "one.safetensors")
            os.link(root / "2 edited.safetensors", root / "link")
            (root / "link").rename(root / "two.safetensors")
            told = next(event.event for event in events if isinstance(event.event, ActionTaken))
            assert told.path == os.fsencode(root / "three.safetensors")
            daemon.settle()
            assert {entry.path for entry in client.history()} == {told.path}
        assert (root / "one.safetensors").exists()
        assert (root / "two.safetensors").samefile(root / "2 edited.safetensors")


def test_an_old_library_stays_when_delete_is_switched_on(root: Path, tmp_path: Path) -> None:
    """What came while the policy was to report is old, whenever lorad ended."""
    with daemon_with(tmp_path, root) as daemon:
        daemon.settle()
        shutil.copyfile(root / "1.safetensors", root / NEW)
        daemon.settle()
        kill_daemon(daemon)
        reconfigured(daemon, root, action='"delete"')
        daemon.revive()
        only_the_last_is_acted_on(daemon, root)
        assert (root / NEW).exists()


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "at a restart"])
def test_a_policy_to_report_forgets_for_good(root: Path, tmp_path: Path, running: bool) -> None:
    """Who switches it off and on again finds all that was there meanwhile old."""
    with daemon_with(tmp_path, root, "delete") as daemon:
        daemon.settle()
        with a_newcomer_waits(daemon, root):
            if not running:
                kill_daemon(daemon)
            for action in ("report", "delete"):
                reconfigured(daemon, root, action=f'"{action}"')
                daemon.notices.forget()
                if running:
                    os.kill(daemon.pid, signal.SIGHUP)
                    daemon.notices.wait_for("READY=1")
                else:
                    daemon.revive()
                daemon.settle()
                if not running:
                    kill_daemon(daemon)
        daemon.revive()
        only_the_last_is_acted_on(daemon, root)
        assert (root / NEW).exists()


def waiting(daemon: Running) -> int:
    """How many newcomers the catalogue knows of."""
    with closing(sqlite3.connect(f"file:{daemon.state / CATALOGUE}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM newcomers").fetchone()[0])


def test_what_the_policy_left_alone_is_settled_for_good(root: Path, tmp_path: Path) -> None:
    """A policy that goes further, from the next start on, is one for what comes then."""
    kept = root / "kept"
    kept.mkdir()
    with daemon_with(tmp_path, root, "delete", scope=[str(kept)]) as daemon:
        daemon.settle()
        with daemon.client() as client, client.events(["duplicate"]) as events:
            shutil.copyfile(root / "1.safetensors", root / NEW)
            next(iter(events))
        daemon.settle()
        until = time.monotonic() + 30
        while waiting(daemon):
            assert time.monotonic() < until
            time.sleep(0.05)
        kill_all(daemon)
        reconfigured(daemon, root, action='"delete"')
        daemon.revive()
        only_the_last_is_acted_on(daemon, root)
        assert (root / NEW).exists()


def test_a_folder_that_was_not_watched_for_a_while_is_old(root: Path, tmp_path: Path) -> None:
    """Its newcomers with it: they were there when it was looked through again."""
    other = tmp_path / "other"
    other.mkdir()
    with daemon_with(tmp_path, root, "delete") as daemon:
        daemon.settle()
        with a_newcomer_waits(daemon, root):
            kill_daemon(daemon)
            for folder in (other, root):
                daemon.configure([folder])
                daemon.revive()
                daemon.settle()
                kill_daemon(daemon)
        daemon.revive()
        only_the_last_is_acted_on(daemon, root)
        assert (root / NEW).exists()
