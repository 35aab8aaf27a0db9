"""What was there before is never acted on by itself, whatever is done around it (docs/decisions/0014)."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from loracore.control import ActionTaken, DuplicateFound, Told
from loracore.errors import RefusedError
from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.running import Running

SPECS = [architectures.sd15(4, width=width, every=6) for width in (4, 8, 12)]
FEW = 12


def library(root: Path, *folders: str, files: int = FEW) -> None:
    """The same files in each of these folders, of three layouts."""
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for seed in range(files):
            specs = SPECS[seed % len(SPECS)]
            write_safetensors(str(root / folder / f"{seed}.safetensors"), random_weights(specs, seed))


def deleting(folder: Path, *roots: Path, **settings: object) -> Running:
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return Running(folder, roots, tables="\n".join(["[dedupe]", 'action = "delete"', *lines]))


def reread(daemon: Running, *roots: Path) -> None:
    daemon.configure(roots)
    daemon.notices.forget()
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.notices.wait_for("READY=1")


def acted_on_until(daemon: Running, newcomer: Path, like: Path) -> set[bytes]:
    """All that is acted on until a newcomer is, which comes when all else is settled."""
    with daemon.client() as client, client.events(["action"]) as events:
        daemon.settle()
        shutil.copyfile(like, newcomer)
        taken = (event.event for event in events if isinstance(event.event, ActionTaken))
        assert any(one.path == os.fsencode(newcomer) for one in taken)
        return {entry.path for entry in client.history()}


def test_files_of_a_root_that_is_added_are_old(tmp_path: Path) -> None:
    """Also where their twins are in a root that has long been known."""
    # So many that some are read to their end after their twins.
    library(tmp_path, "known", "added", files=150)
    known, added = tmp_path / "known", tmp_path / "added"
    with deleting(tmp_path, known) as daemon:
        daemon.settle()
        reread(daemon, known, added)
        daemon.settle()
        newcomer = known / "new.safetensors"
        assert acted_on_until(daemon, newcomer, known / "0.safetensors") == {os.fsencode(newcomer)}


@pytest.mark.parametrize("there", [False, True], ids=["no folder", "an empty mount point"])
def test_files_of_a_disk_that_is_mounted_later_are_old(tmp_path: Path, there: bool) -> None:
    """A root that was not there when all was looked through was not looked through."""
    library(tmp_path, "elsewhere/a", "elsewhere/b")
    root = tmp_path / "disk"
    if there:
        root.mkdir()
    with deleting(tmp_path, root) as daemon:
        daemon.settle()
        if there:
            root.rmdir()
        (tmp_path / "elsewhere").rename(root)
        with daemon.client() as client:
            while client.status().duplicate_files < 2 * FEW:
                daemon.settle()
        newcomer = root / "new.safetensors"
        assert acted_on_until(daemon, newcomer, root / "a/0.safetensors") == {os.fsencode(newcomer)}


@pytest.mark.parametrize("killed", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_old_files_that_are_read_anew_at_the_end_stay_old(tmp_path: Path, killed: signal.Signals) -> None:
    """Another mode has them all read anew, which may take longer than lorad runs."""
    library(tmp_path, "loras/a", "loras/b")
    root = tmp_path / "loras"
    daemon = deleting(tmp_path, root)
    daemon.start()
    daemon.settle()
    with daemon.client() as client:
        generation = client.status().generation
        for path in root.rglob("*.safetensors"):
            path.chmod(0o600)
        while client.status().generation == generation:
            pass
    daemon.stop(killed)
    with daemon:
        newcomer = root / "new.safetensors"
        assert acted_on_until(daemon, newcomer, root / "a/0.safetensors") == {os.fsencode(newcomer)}


@pytest.mark.parametrize("killed", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_old_files_that_were_moved_just_before_the_end_stay_old(tmp_path: Path, killed: signal.Signals) -> None:
    """Their old names are gone from the catalogue, and the new ones have not settled."""
    library(tmp_path, "loras/a", "loras/b")
    root = tmp_path / "loras"
    daemon = deleting(tmp_path, root)
    daemon.watch["settle_seconds"] = 3.0
    daemon.configure([root])
    daemon.start()
    daemon.settle()
    for path in list((root / "b").iterdir()):
        path.rename(root / f"moved {path.name}")
    with daemon.client() as client:
        while client.status().files_total > FEW:
            pass
    daemon.stop(killed)
    daemon.watch["settle_seconds"] = 0.2
    daemon.configure([root])
    with daemon:
        newcomer = root / "new.safetensors"
        assert acted_on_until(daemon, newcomer, root / "a/0.safetensors") == {os.fsencode(newcomer)}


def test_an_old_file_moved_over_a_newcomer_and_away_again_is_old(tmp_path: Path) -> None:
    """The name still waits, but for another file."""
    library(tmp_path, "loras/a", "loras/b")
    root = tmp_path / "loras"
    with deleting(tmp_path, root, min_age=2.0) as daemon, daemon.client() as client:
        daemon.settle()
        with client.events(["duplicate"]) as events:
            waiting = root / "waiting.safetensors"
            shutil.copyfile(root / "a/0.safetensors", waiting)
            assert told_of(events, waiting)
            (root / "a/1.safetensors").rename(waiting)
            assert told_of(events, waiting)
            waiting.rename(root / "moved.safetensors")
            assert told_of(events, root / "moved.safetensors")
        newcomer = root / "new.safetensors"
        assert acted_on_until(daemon, newcomer, root / "a/0.safetensors") == {os.fsencode(newcomer)}


def test_report_ends_what_is_being_acted_on(tmp_path: Path) -> None:
    """Who sees his files go and sends SIGHUP keeps what is left of them."""
    library(tmp_path, "loras/a")
    root, copies = tmp_path / "loras", 300
    daemon = deleting(tmp_path, root)
    daemon.start()
    daemon.settle()
    daemon.stop()
    for number in range(copies):
        shutil.copyfile(root / "a/0.safetensors", root / f"copy {number}.safetensors")
    with daemon, daemon.client() as client:
        with client.events(["action"]) as events:
            if not any(client.history()):
                next(events)
        daemon.tables = ""
        reread(daemon, root)
        with pytest.raises(RefusedError):
            client.undo([copies * copies])  # Answered after all that is being done.
        done = len(list(client.history()))
    assert 0 < done < copies
    assert len(list(root.glob("copy *"))) == copies - done


def told_of(events: Iterator[Told], path: Path) -> bool:
    """Wait until a file is said to be a duplicate."""
    found = (event.event for event in events if isinstance(event.event, DuplicateFound))
    return any(one.path == os.fsencode(path) for one in found)
