"""Newcomers are acted on by themselves and nothing else is, whatever its owner does to it (SPEC section 5).

Most tests end with a newcomer that is acted on, after all else was looked at.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import lorakit
from loracore.control import ActionRefused, ActionTaken, DuplicateFound, Told
from loracore.errors import RefusedError
from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.running import Running
from tests.integration.scanning import view

SPECS = [architectures.sd15(4, width=width, every=6) for width in (4, 8, 12)]
FEW = 6
#: A root that may not do more than the permissions of a file allow.
WEAK = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all")
ENDS = pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])


def library(root: Path, *folders: str, files: int = FEW) -> None:
    """The same files in each of these folders, of three layouts."""
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for seed in range(files):
            specs = SPECS[seed % len(SPECS)]
            write_safetensors(str(root / folder / f"{seed}.safetensors"), random_weights(specs, seed))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pairs of duplicates, and beside them a file that is alone."""
    library(tmp_path, "loras/a", "loras/b")
    write_safetensors(str(tmp_path / "loras" / "alone.safetensors"), random_weights(SPECS[0], 99))
    return tmp_path / "loras"


def acting(folder: Path, *roots: Path, action: str = "delete", **settings: object) -> Running:
    daemon = Running(folder, roots)
    use(daemon, *roots, action=action, **settings)
    return daemon


def use(daemon: Running, *roots: Path, action: str = "delete", **settings: object) -> None:
    """Give it a configuration, which one that runs reads now."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"action": action, **settings}.items()]
    daemon.tables = "\n".join(["[dedupe]", *lines])
    daemon.configure(roots)
    if not daemon.ended():
        daemon.notices.forget()
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.notices.wait_for("READY=1")


def acted_on(daemon: Running) -> set[Path]:
    with daemon.client() as client:
        return {Path(os.fsdecode(entry.path)) for entry in client.history()}


def duplicates(daemon: Running) -> int:
    with daemon.client() as client:
        return client.status().duplicate_files


def acted_on_until(daemon: Running, newcomer: Path, like: Path) -> set[Path]:
    """All that is acted on until a newcomer is, which comes when all else is settled."""
    with daemon.client() as client, client.events(["action"]) as events:
        daemon.settle()
        part = shutil.copyfile(like, newcomer.with_suffix(".part"))
        part.rename(newcomer)
        taken = (event.event for event in events if isinstance(event.event, ActionTaken))
        assert any(one.path == os.fsencode(newcomer) for one in taken)
    return acted_on(daemon)


def met(daemon: Running, copied: Callable[[], object]) -> None:
    """Wait until a name that is made now is met, settled or not."""
    with daemon.client() as client:
        before = client.status().files_total
        copied()
        while not any((status := client.status()).queues.values()) and status.files_total == before:
            pass


def only_new(daemon: Running, root: Path) -> None:
    """Of all that there is, nothing is acted on but what comes now."""
    newcomer = root / "new.safetensors"
    assert acted_on_until(daemon, newcomer, root / "like.copy") == {newcomer}


def keep_aside(root: Path) -> None:
    """What a newcomer is made of, whatever becomes of the library."""
    shutil.copyfile(root / "b" / "0.safetensors", root / "like.copy")


def told_of(events: Iterator[Told], path: Path) -> bool:
    """Wait until a file is said to be a duplicate."""
    found = (event.event for event in events if isinstance(event.event, DuplicateFound))
    return any(one.path == os.fsencode(path) for one in found)


# What is new


@ENDS
def test_what_came_while_lorad_was_stopped_is_new(root: Path, tmp_path: Path, ends: signal.Signals) -> None:
    daemon = acting(tmp_path, root)
    daemon.start()
    daemon.settle()
    daemon.stop(ends)
    copies = {Path(shutil.copyfile(path, root / f"copy of {path.name}")) for path in (root / "a").iterdir()}
    with daemon, daemon.client() as client, client.events(["action"]) as events:
        while acted_on(daemon) != copies:
            next(events)
        daemon.settle()
        assert acted_on(daemon) == copies


def test_what_is_hidden_is_in_no_view_and_what_is_kept_is_unique(root: Path, tmp_path: Path) -> None:
    """All that is said counts the same; also after a kill, and again when it came back."""
    kept, newcomer = root / "alone.safetensors", root / "new.safetensors"
    with acting(tmp_path, root) as daemon:
        assert acted_on_until(daemon, newcomer, kept) == {newcomer}
        for step in ("hidden", "killed", "undone"):
            if step == "killed":
                daemon.stop(signal.SIGKILL)
                daemon.start()
            if step == "undone":
                with daemon.client() as client:
                    assert client.undo(all=True).done == 1
            generation = daemon.settle()
            names = {str(path) for path in root.rglob("*.safetensors")}
            files = view(daemon.state, "processed")
            assert set(files["files"]) == names
            counted = Counter(row["status"] for row in files["files"].values())
            with daemon.client() as client:
                status = client.status()
            assert status.files == counted
            assert status.files_total == files["progress"]["files_total"] == len(names)
            assert status.bytes_total == files["progress"]["bytes_total"]
            assert status.duplicate_files == counted["duplicate"] == 2 * FEW + (2 if step == "undone" else 0)
            assert files["files"][str(kept)]["status"] == ("duplicate" if step == "undone" else "unique")
            assert view(daemon.state, "duplicates")["generation"] == generation
            assert sum(map(len, view(daemon.state, "refined_groups")["refined_groups"].values())) == len(names)


@contextmanager
def open_for_writing(daemon: Running, root: Path, like: Path) -> Iterator[Path]:
    """A newcomer that is refused for that, and the daemon said so."""
    newcomer = root / "waits.safetensors"
    with daemon.client() as client, client.events(["refused"]) as events:
        part = shutil.copyfile(like, root / "part")
        with open(part, "r+b"):
            part.rename(newcomer)
            told = next(events).event
            assert isinstance(told, ActionRefused)
            assert told.path == os.fsencode(newcomer)
            yield newcomer


@ENDS
def test_a_newcomer_that_waits_is_acted_on_after_a_restart(
    root: Path, tmp_path: Path, ends: signal.Signals
) -> None:
    """By itself, and nothing else is for that."""
    daemon = acting(tmp_path, root)
    daemon.start()
    daemon.settle()
    with open_for_writing(daemon, root, root / "a/0.safetensors") as newcomer:
        daemon.stop(ends)
    with daemon, daemon.client() as client, client.events(["action"]) as events:
        while not acted_on(daemon):
            next(events)
        daemon.settle()
        assert acted_on(daemon) == {newcomer}


def test_a_newcomer_that_is_too_young_waits_on_after_a_kill(root: Path, tmp_path: Path) -> None:
    """With `min_age`, its time goes on from where it was."""
    newcomer = root / "new.safetensors"
    daemon = acting(tmp_path, root, min_age=4.0)
    daemon.start()
    daemon.settle()
    with daemon.client() as client, client.events(["duplicate"]) as events:
        came = time.time()
        shutil.copyfile(root / "a/0.safetensors", newcomer)
        assert told_of(events, newcomer)
        daemon.stop(signal.SIGKILL)
    with daemon, daemon.client() as client, client.events(["action"]) as events:
        while not acted_on(daemon):
            next(events)
        assert acted_on(daemon) == {newcomer}
        assert time.time() - came >= 4


def test_newcomers_count_beside_old_files_that_are_read_anew(tmp_path: Path) -> None:
    """Whichever of the two is read first."""
    library(tmp_path, "loras/a", "loras/b", files=30)
    root = tmp_path / "loras"
    with acting(tmp_path, root) as daemon, daemon.client() as client:
        daemon.settle()
        shutil.copytree(root / "a", tmp_path / "in", copy_function=shutil.copyfile)
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
def test_a_file_that_is_written_all_the_time_holds_nothing_up(root: Path, tmp_path: Path, name: str) -> None:
    """What comes meanwhile is new, whatever was there and has not settled yet."""
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.05):
            with (root / name).open("a") as log:
                log.write("x\n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with (
            acting(tmp_path, root) as daemon,
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


# What stays old


def move(root: Path) -> None:
    for path in list((root / "b").iterdir()):
        path.rename(root / f"moved {path.name}")


def move_folder(root: Path) -> None:
    (root / "b").rename(root / "c")


def move_over_another(root: Path) -> None:
    (root / "b/0.safetensors").rename(root / "alone.safetensors")


def move_to_another_root(root: Path) -> None:
    for path in list((root / "b").iterdir()):
        path.rename(root.parent / "other" / path.name)


def touch(root: Path) -> None:
    for path in (root / "b").iterdir():
        path.touch()


def touch_and_move(root: Path) -> None:
    touch(root)
    move(root)


def change_mode(root: Path) -> None:
    for path in (root / "b").iterdir():
        path.chmod(0o600)


def link(root: Path) -> None:
    for path in list((root / "b").iterdir()):
        os.link(path, root / f"link to {path.name}")


def write_anew(root: Path) -> None:
    """As a program does that defragments or rebalances: a copy with all attributes takes the name."""
    for path in (root / "b").glob("*.safetensors"):
        shutil.copy2(path, path.with_suffix(".tmp")).rename(path)


def edit_headers(root: Path) -> None:
    lorakit.edit(list((root / "b").glob("*.safetensors")), title="Ink", apply=True)


def restore(root: Path) -> None:
    """From a backup, after all is gone."""
    shutil.copytree(root / "b", root.parent / "backup")
    shutil.rmtree(root / "b")
    shutil.copytree(root.parent / "backup", root / "b")


DONE = [move, move_folder, move_over_another, move_to_another_root, touch, touch_and_move, change_mode, link,
        write_anew, edit_headers, restore]  # fmt: skip


@pytest.mark.parametrize("done", DONE)
@pytest.mark.parametrize("when", ["running", "stopped", "killed at once"])
def test_what_is_done_to_old_files_makes_none_new(
    root: Path, tmp_path: Path, done: Callable[[Path], None], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "edits"))
    keep_aside(root)
    (tmp_path / "other").mkdir()
    with acting(tmp_path, root, tmp_path / "other") as daemon:
        daemon.settle()
        if when == "stopped":
            daemon.stop()
        done(root)
        if when == "killed at once":
            daemon.stop(signal.SIGKILL)
        if when != "running":
            daemon.start()
        only_new(daemon, root)


@ENDS
def test_old_files_whose_move_is_half_seen_at_the_end_stay_old(
    root: Path, tmp_path: Path, ends: signal.Signals
) -> None:
    """Their old names are gone from the catalogue, and the new ones have not settled."""
    keep_aside(root)
    with acting(tmp_path, root) as daemon, daemon.client() as client:
        daemon.watch["settle_seconds"] = 3.0
        use(daemon, root)
        daemon.settle()
        move(root)
        while client.status().files_total > FEW + 2:
            pass
        daemon.stop(ends)
        daemon.watch["settle_seconds"] = 0.2
        use(daemon, root)
        daemon.start()
        only_new(daemon, root)


@ENDS
def test_old_files_that_are_read_anew_at_the_end_stay_old(
    root: Path, tmp_path: Path, ends: signal.Signals
) -> None:
    """Which may take longer than lorad runs."""
    keep_aside(root)
    with acting(tmp_path, root) as daemon, daemon.client() as client:
        daemon.settle()
        generation = client.status().generation
        change_mode(root)
        while client.status().generation == generation:
            pass
        daemon.stop(ends)
        daemon.start()
        only_new(daemon, root)


@pytest.mark.parametrize("by", [["rsync", "-a", "--delete"], ["rsync", "-a", "--delete", "--inplace"]])
def test_what_a_mirror_brings_again_is_old(root: Path, tmp_path: Path, by: list[str]) -> None:
    """It removes what is hidden and copies it anew, each time that it runs; that is one action and no more."""
    if shutil.which(by[0]) is None:
        pytest.skip(f"{by[0]} is not installed")
    source, mirrored = tmp_path / "source", root / "mirrored"
    source.mkdir()
    mirrored.mkdir()
    with acting(tmp_path, root) as daemon:
        daemon.settle()
        shutil.copyfile(root / "a/0.safetensors", source / "0.safetensors")
        for run in range(4):
            subprocess.run([*by, f"{source}/", f"{mirrored}/"], check=True)
            if not run:
                with daemon.client() as client, client.events(["action"]) as events:
                    while not acted_on(daemon):
                        next(events)
            daemon.settle()
        assert (mirrored / "0.safetensors").exists()
        newcomer = root / "new.safetensors"
        assert acted_on_until(daemon, newcomer, source / "0.safetensors") == {
            newcomer,
            mirrored / "0.safetensors",
        }


def test_a_newcomer_that_is_moved_before_it_is_acted_on_is_old(root: Path, tmp_path: Path) -> None:
    """Its inode had these weights."""
    keep_aside(root)
    with acting(tmp_path, root) as daemon:
        daemon.settle()
        with open_for_writing(daemon, root, root / "a/0.safetensors") as newcomer:
            newcomer.rename(root / "moved.safetensors")
        only_new(daemon, root)


def test_an_old_file_that_takes_the_name_of_a_newcomer_is_old(root: Path, tmp_path: Path) -> None:
    """By rename or as a hard link, while the newcomer waits; and it stays so under its next name."""
    keep_aside(root)
    with acting(tmp_path, root, min_age=3.0) as daemon, daemon.client() as client:
        daemon.settle()
        with client.events(["duplicate"]) as events:
            for name in ("one", "two"):
                shutil.copyfile(root / "a/0.safetensors", root / f"{name}.safetensors")
                assert told_of(events, root / f"{name}.safetensors")
            (root / "b/1.safetensors").rename(root / "one.safetensors")
            assert told_of(events, root / "one.safetensors")
            (root / "one.safetensors").rename(root / "moved.safetensors")
            os.link(root / "b/2.safetensors", root / "link")
            (root / "link").rename(root / "two.safetensors")
        only_new(daemon, root)


# What comes into view at once, and policies


def test_files_of_a_root_that_is_added_or_was_away_are_old(root: Path, tmp_path: Path) -> None:
    """Also where their twins are in a root that has long been known, and newcomers among them that waited."""
    keep_aside(root)
    library(tmp_path, "added/a", files=60)
    added = tmp_path / "added"
    with acting(tmp_path, root) as daemon:
        daemon.settle()
        use(daemon, root, added)
        daemon.settle()
        with open_for_writing(daemon, added, root / "a/0.safetensors"):
            use(daemon, root)
            daemon.settle()
        use(daemon, root, added)
        only_new(daemon, root)


@pytest.mark.parametrize("there", ["no folder", "an empty mount point", "a mount point with a note in it"])
def test_files_of_a_disk_that_comes_later_are_old(root: Path, tmp_path: Path, there: str) -> None:
    keep_aside(root)
    disk = tmp_path / "disk"
    if there != "no folder":
        disk.mkdir()
    if there.endswith("in it"):
        (disk / "README").write_text("the disk is not mounted")
    with acting(tmp_path, disk) as daemon:
        daemon.settle()
        if disk.exists():
            disk.rename(tmp_path / "below")
        root.rename(disk)
        while duplicates(daemon) < 2 * FEW:
            daemon.settle()
        only_new(daemon, disk)


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="setpriv is not installed")
@pytest.mark.parametrize("unreadable", ["files", "folder"])
@pytest.mark.parametrize("stopped", [False, True])
def test_what_is_made_readable_is_old(root: Path, tmp_path: Path, unreadable: str, *, stopped: bool) -> None:
    """Who follows the advice to make files readable does not lose them by it."""
    keep_aside(root)
    places = [root / "b"] if unreadable == "folder" else list((root / "b").iterdir())
    modes = [place.stat().st_mode for place in places]
    for place in places:
        place.chmod(0)
    daemon = acting(tmp_path, root)
    daemon.through = WEAK if os.geteuid() == 0 else ()
    with daemon:
        daemon.settle()
        assert duplicates(daemon) == 0
        if stopped:
            daemon.stop()
        for place, mode in zip(places, modes, strict=True):
            place.chmod(mode)
        if stopped:
            daemon.start()
        while duplicates(daemon) < 2 * FEW:
            daemon.settle()
        only_new(daemon, root)


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "at a restart"])
def test_what_was_there_while_the_policy_was_to_report_is_old(
    root: Path, tmp_path: Path, *, running: bool
) -> None:
    """Whatever came then or was new before, and whatever settled when another one became active."""
    keep_aside(root)
    with acting(tmp_path, root) as daemon:
        daemon.settle()
        with open_for_writing(daemon, root, root / "a/0.safetensors"):
            if not running:
                daemon.stop(signal.SIGKILL)
            use(daemon, root, action="report")
            if not running:
                daemon.start()
            shutil.copyfile(root / "a/1.safetensors", root / "1 under report.safetensors")
            daemon.settle()
            copied = partial(shutil.copyfile, root / "a/2.safetensors", root / "2 under report.safetensors")
            if running:
                met(daemon, copied)
            else:
                copied()
                daemon.stop(signal.SIGKILL)
            use(daemon, root)
            if not running:
                daemon.start()
        only_new(daemon, root)


def test_a_policy_to_report_ends_what_is_being_acted_on(root: Path, tmp_path: Path) -> None:
    """Who sees his files go and sends SIGHUP keeps what is left of them."""
    copies = 300
    daemon = acting(tmp_path, root)
    daemon.start()
    daemon.settle()
    daemon.stop()
    for number in range(copies):
        shutil.copyfile(root / "a/0.safetensors", root / f"copy {number}.safetensors")
    with daemon, daemon.client() as client:
        with client.events(["action"]) as events:
            if not any(client.history()):
                next(events)
        use(daemon, root, action="report")
        with pytest.raises(RefusedError):
            client.undo([copies * copies])  # Answered after all that is being done.
        done = len(list(client.history()))
    assert 0 < done < copies
    assert len(list(root.glob("copy *"))) == copies - done
