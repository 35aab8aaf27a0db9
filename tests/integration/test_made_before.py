"""What was made before its folder was looked through is no newcomer, however it comes into view (decision 0014).

Each test ends with a newcomer that is acted on, and nothing else is.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from loracore.control import ActionTaken
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.test_old_files import FEW, SPECS, acted_on_until, deleting, library, reread

#: A root that may not do more than the permissions of a file allow.
WEAK = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all")


def rewrite(paths: Iterable[Path]) -> None:
    """As a program does that defragments or rebalances: a copy with all attributes takes the name."""
    for path in paths:
        copy = path.with_suffix(".tmp")
        shutil.copy2(path, copy)
        copy.rename(path)


def another_comes(root: Path) -> None:
    """A library that lay elsewhere, as on a disk that is mounted below the root."""
    (root.parent / "elsewhere").rename(root / "disk")


def restore(root: Path) -> None:
    shutil.copytree(root, root.parent / "copy", symlinks=True)
    root.rename(root.parent / "broken")
    (root.parent / "copy").rename(root)


def rename_ignored(root: Path) -> None:
    for path in root.rglob("*.bak"):
        path.rename(path.with_suffix(""))


HAPPENS: dict[str, Callable[[Path], None]] = {
    "a library comes from elsewhere": another_comes,
    "all are written anew": lambda root: rewrite(root.rglob("*.safetensors")),
    "a half is written anew": lambda root: rewrite((root / "b").iterdir()),
    "touched": lambda root: [path.touch() for path in root.rglob("*.safetensors")] and None,
    "restored from a copy": restore,
    "named as files that are read": rename_ignored,
}


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it does not"])
@pytest.mark.parametrize("what", HAPPENS)
def test_what_was_made_before_is_old(tmp_path: Path, what: str, running: bool) -> None:
    library(tmp_path, "loras/a", "loras/b", "elsewhere/a", "elsewhere/b")
    root = tmp_path / "loras"
    for path in list((root / "b").iterdir())[:2]:
        path.rename(root / f"{path.name}.bak")
    daemon = deleting(tmp_path, root)
    daemon.start()
    daemon.settle()
    if running:
        HAPPENS[what](root)
        daemon.settle()
    daemon.stop()
    if not running:
        HAPPENS[what](root)
    with daemon:
        newcomer = root / "new.safetensors"
        assert acted_on_until(daemon, newcomer, root / "a/0.safetensors") == {os.fsencode(newcomer)}


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="setpriv is not installed")
@pytest.mark.parametrize("hidden", ["files", "folder"])
def test_what_could_not_be_read_before_is_old(tmp_path: Path, hidden: str) -> None:
    """Who follows the advice to make files readable does not lose them by it."""
    library(tmp_path, "loras/a", "loras/b")
    root = tmp_path / "loras"
    places = [root / "b"] if hidden == "folder" else list((root / "b").iterdir())
    modes = [place.stat().st_mode for place in places]
    for place in places:
        place.chmod(0)
    daemon = deleting(tmp_path, root)
    daemon.through = WEAK if os.geteuid() == 0 else ()
    with daemon, daemon.client() as client:
        daemon.settle()
        assert client.status().duplicate_files == 0
        for place, mode in zip(places, modes, strict=True):
            place.chmod(mode)
        while client.status().duplicate_files < 2 * FEW:
            daemon.settle()
        newcomer = root / "new.safetensors"
        assert acted_on_until(daemon, newcomer, root / "a/0.safetensors") == {os.fsencode(newcomer)}


def test_a_mount_point_with_a_note_in_it_is_not_known(tmp_path: Path) -> None:
    """A root is known by the files in it that are read; here they were made on the disk meanwhile."""
    root = tmp_path / "disk"
    root.mkdir()
    (root / "README").write_text("the disk is not mounted")
    with deleting(tmp_path, root) as daemon, daemon.client() as client:
        daemon.settle()
        library(tmp_path, "elsewhere/a", "elsewhere/b")
        root.rename(tmp_path / "below")
        (tmp_path / "elsewhere").rename(root)
        while client.status().duplicate_files < 2 * FEW:
            daemon.settle()
        newcomer = root / "new.safetensors"
        assert acted_on_until(daemon, newcomer, root / "a/0.safetensors") == {os.fsencode(newcomer)}


def test_what_came_while_it_was_to_report_is_old(tmp_path: Path) -> None:
    """What is made then and comes into view later as well."""
    library(tmp_path, "loras/a")
    root = tmp_path / "loras"
    daemon = deleting(tmp_path, root)
    acting, daemon.tables = daemon.tables, ""
    daemon.configure([root])
    with daemon:
        daemon.settle()
        shutil.copytree(root / "a", root / "copied")
        shutil.copytree(root / "a", tmp_path / "elsewhere")
        daemon.settle()
        daemon.tables = acting
        reread(daemon, root)
        (tmp_path / "elsewhere").rename(root / "moved")
        for path in root.rglob("*.safetensors"):
            path.chmod(0o600)
        newcomer = root / "new.safetensors"
        assert acted_on_until(daemon, newcomer, root / "a/0.safetensors") == {os.fsencode(newcomer)}


@pytest.mark.parametrize("touched", [False, True], ids=["renamed", "touched and renamed"])
def test_what_was_undone_stays_under_another_name(tmp_path: Path, *, touched: bool) -> None:
    library(tmp_path, "loras/a", "loras/b")
    root = tmp_path / "loras"
    with deleting(tmp_path, root) as daemon, daemon.client() as client:
        daemon.settle()
        assert client.apply_dedupe("delete").done == FEW
        gone = {action.path for action in client.history()}
        assert client.undo(all=True).done == FEW
        for path in map(Path, map(os.fsdecode, gone)):
            if touched:
                path.touch()
            path.rename(path.with_suffix(".mine.safetensors"))
        newcomer = root / "new.safetensors"
        assert acted_on_until(daemon, newcomer, root / "a/0.safetensors") == {*gone, os.fsencode(newcomer)}
        assert sum(action.state == "done" for action in client.history()) == 1


def test_what_was_left_alone_stays_old(tmp_path: Path) -> None:
    """Also when it is touched and renamed, and the policy would have it go then."""
    library(tmp_path, "loras/a")
    root = tmp_path / "loras"
    (root / "in scope").mkdir()
    with deleting(tmp_path, root, scope=[str(root / "in scope")], keep=["shortest-path"]) as daemon:
        daemon.settle()
        shutil.copytree(root / "a", root / "b", copy_function=shutil.copyfile)
        daemon.settle()
        for path in (root / "b").iterdir():
            path.touch()
            path.rename(root / "in scope" / path.name)
        newcomer = root / "in scope/new.safetensors"
        assert acted_on_until(daemon, newcomer, root / "a/0.safetensors") == {os.fsencode(newcomer)}


@pytest.mark.parametrize("action", ["delete", "symlink"])
def test_a_copy_of_the_same_time_comes_back_without_its_original(tmp_path: Path, action: str) -> None:
    """Mv between two mounts of one file system copies, too; nothing tells it from who copies for good."""
    library(tmp_path, "loras/a")
    root = tmp_path / "loras"
    daemon = deleting(tmp_path, root)
    daemon.tables = daemon.tables.replace("delete", action)
    daemon.configure([root])
    with daemon, daemon.client() as client:
        daemon.settle()
        with client.events(["action"]) as events:
            copy = root / "a long name for a copy.safetensors"
            shutil.copy2(root / "a/0.safetensors", copy)
            taken = next(events).event
        assert isinstance(taken, ActionTaken)
        assert (taken.action, taken.path) == ("quarantine", os.fsencode(copy))
        content = (root / "a/0.safetensors").read_bytes()
        (root / "a/0.safetensors").unlink()
        assert client.undo(all=True).done == 1
        assert copy.read_bytes() == content


def test_newcomers_count_beside_old_files_that_are_read_anew(tmp_path: Path) -> None:
    """Whichever of the two is read first."""
    library(tmp_path, "loras/a", "loras/b", files=30)
    root = tmp_path / "loras"
    with deleting(tmp_path, root) as daemon, daemon.client() as client:
        daemon.settle()
        (tmp_path / "in").mkdir()
        for path in (root / "a").iterdir():
            shutil.copyfile(path, tmp_path / "in" / path.name)
        with client.events(["action"]) as events:
            for path in root.rglob("*.safetensors"):
                path.chmod(0o600)
            (tmp_path / "in").rename(root / "0in")
            taken = [event.event for _, event in zip(range(30), events, strict=False)]
        assert {one.path for one in taken if isinstance(one, ActionTaken)} == {
            os.fsencode(root / "0in" / f"{number}.safetensors") for number in range(30)
        }
        assert len(list(root.rglob("*.safetensors"))) == 60


@pytest.mark.parametrize("name", ["train.log", "slow.safetensors"])
def test_a_file_that_is_written_all_the_time_holds_nothing_up(tmp_path: Path, name: str) -> None:
    """What is made meanwhile is new, whatever was there and has not settled yet."""
    library(tmp_path, "loras/a")
    root, stop = tmp_path / "loras", threading.Event()

    def write() -> None:
        while not stop.wait(0.05):
            with (root / name).open("a") as log:
                log.write("x\n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with (
            deleting(tmp_path, root) as daemon,
            daemon.client() as client,
            client.events(["action", "duplicate"]) as events,
        ):
            for number in itertools.count():
                shutil.copyfile(root / "a/0.safetensors", root / f"{number}.safetensors")
                if isinstance(next(events).event, ActionTaken):
                    break
    finally:
        stop.set()
        writer.join()


def test_a_copy_that_may_be_half_of_a_move_waits(tmp_path: Path, disk: Callable[[str], str]) -> None:
    """Mv to another file system copies all, then removes all; a download has an mtime of its own."""
    other = Path(disk("ext4"))
    library(tmp_path, "loras/a")
    write_safetensors(str(other / "here.safetensors"), random_weights(SPECS[0], 99))
    root = tmp_path / "loras"
    for number, path in enumerate(sorted((root / "a").iterdir())):
        os.utime(path, ns=(10**18 + number, 10**18 + number))
    with deleting(tmp_path, root, other) as daemon, daemon.client() as client:
        daemon.settle()
        shutil.copytree(root / "a", other / "a")
        daemon.settle()
        newcomer = other / "new.safetensors"
        write_safetensors(str(newcomer), random_weights(SPECS[0], 0))
        with client.events(["action"]) as events:
            taken = next(events).event
        assert isinstance(taken, ActionTaken)
        assert taken.path == os.fsencode(newcomer)
        shutil.rmtree(root / "a")
        daemon.settle()
        assert len(list((other / "a").iterdir())) == FEW
        assert {action.path for action in client.history()} <= {os.fsencode(newcomer)}


def test_a_move_to_another_disk_goes_through(tmp_path: Path, disk: Callable[[str], str]) -> None:
    """By mv itself, in whichever moment the daemon looks."""
    other = Path(disk("ext4"))
    library(tmp_path, "loras/a", "loras/b", files=40)
    write_safetensors(str(other / "here.safetensors"), random_weights(SPECS[0], 99))
    root = tmp_path / "loras"
    with deleting(tmp_path, root, other, levels=["file", "tensors"]) as daemon:
        daemon.watch["settle_seconds"] = 0.0
        reread(daemon, root, other)
        daemon.settle()
        moving = subprocess.Popen(["mv", str(root / "a"), str(other / "a")])
        while moving.poll() is None:
            daemon.settle()
        daemon.settle()
        assert len(list((other / "a").iterdir())) == 40
