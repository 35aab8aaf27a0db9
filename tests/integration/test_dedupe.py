"""A running daemon acts on duplicates, by request and by itself, and everything comes back (SPEC section 5)."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from loracore.control import ActionRefused, ActionTaken
from loractl import Client
from tests.builders import architectures
from tests.builders.weights import Layers, random_weights
from tests.builders.write import write_safetensors
from tests.integration.running import Running
from tests.integration.scanning import view

SPECS = architectures.sd15(4, width=4, every=6)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "loras"
    path.mkdir()
    return path


def weights(seed: int) -> Layers:
    return random_weights(SPECS, seed)


def daemon_with(folder: Path, root: Path, action: str = "report", **settings: object) -> Running:
    """One whose `[dedupe]` table is as given."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"action": action, **settings}.items()]
    return Running(folder, [root], tables="\n".join(["[dedupe]", *lines]))


def contents(root: Path) -> dict[str, bytes]:
    """What every name leads to, whatever it is; hidden ones are none of the owner's."""
    return {str(path): path.read_bytes() for path in in_view(root) if path.is_file()}


def in_view(root: Path) -> list[Path]:
    """The owner's files and folders."""
    return [path for path in sorted(root.rglob("*")) if not path.name.startswith(".")]


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """All that undo brings back: kind, bytes, mode, owner, mtime."""
    found: dict[str, tuple[object, ...]] = {}
    for path in in_view(root):
        status = path.lstat()
        said = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path)] = (said, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
    return found


def loractl(daemon: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    socket = ("--socket", str(daemon.runtime / "control.sock"))
    command = [sys.executable, "-m", "loractl.cli", *arguments, *socket]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def asked(daemon: Running, *arguments: str) -> dict[str, Any]:
    ended = loractl(daemon, *arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout))


def library(root: Path) -> None:
    """Two files with copies: one equal byte for byte, one with other metadata; the originals are the oldest."""
    for seed in (1, 2):
        first = write_safetensors(str(root / f"{seed}.safetensors"), weights(seed))
        os.utime(first, ns=(seed * 10**9, seed * 10**9))
        shutil.copyfile(first, root / f"{seed} copy.safetensors")
        write_safetensors(str(root / f"{seed} edited.safetensors"), weights(seed), metadata={"title": "x"})
        (root / f"{seed} copy.txt").write_text("trigger words")


@pytest.mark.parametrize("action", ["hardlink", "symlink", "quarantine", "delete"])
def test_a_plan_is_carried_out_and_taken_back(root: Path, tmp_path: Path, action: str) -> None:
    """`dedupe` shows, `--apply` does, `history` and `savings` tell, `undo --all` restores; the views follow."""
    library(root)
    before = snapshot(root)
    with daemon_with(tmp_path, root) as daemon:
        daemon.settle()
        plan = asked(daemon, "dedupe", "--action", action)
        assert snapshot(root) == before, "a plan changes nothing"
        applied = asked(daemon, "dedupe", "--apply", "--action", action)
        files = 2 if action == "hardlink" else 4
        assert (applied["done"], applied["refused"]) == (len(plan["steps"]), 0) == (files, 0)
        gone = {step["path"] for step in plan["steps"]}
        assert all(os.path.samefile(path, kept_of(plan, path)) for path in gone if os.path.exists(path))
        assert {path for path in gone if os.path.lexists(path)} == (gone if action.endswith("link") else set())
        history = asked(daemon, "history")["actions"]
        assert [(one["path"], one["state"]) for one in history] == [
            (step["path"], "quarantined" if action == "quarantine" else "hidden") for step in plan["steps"]
        ]
        assert set(history[0]) == {"id", "time", "action", "kept", "path", "bytes", "state"}
        daemon.settle()
        assert loractl(daemon, "audit").returncode == 0
        assert not gone & view(daemon.state, "duplicates")["levels"].keys() or action == "hardlink"
        assert asked(daemon, "savings")["actions"] == files
        assert asked(daemon, "undo", "--all")["done"] == files
        assert snapshot(root) == before
        daemon.settle()
        assert loractl(daemon, "audit").returncode == 0
        assert {one["state"] for one in asked(daemon, "history")["actions"]} == {"undone"}


def kept_of(plan: dict[str, Any], path: str) -> str:
    return next(str(step["kept"]) for step in plan["steps"] if step["path"] == path)


def test_a_newcomer_is_acted_on_by_itself(root: Path, tmp_path: Path) -> None:
    """As soon as it is known to be a duplicate; what was there before lorad came is left alone."""
    library(root)
    with daemon_with(tmp_path, root, "hardlink", levels=["file"]) as daemon, daemon.client() as client:
        daemon.settle()
        with client.events(["action", "refused"]) as events:
            newcomer = root / "newcomer.safetensors"
            shutil.copyfile(root / "2.safetensors", newcomer)
            told = next(iter(events)).event
        assert isinstance(told, ActionTaken)
        assert (told.path, told.kept) == (os.fsencode(newcomer), os.fsencode(root / "2.safetensors"))
        assert newcomer.samefile(root / "2.safetensors")
        assert not (root / "2 copy.safetensors").samefile(root / "2.safetensors")
        daemon.settle()
        links = view(daemon.state, "duplicates")["links"]
        assert links[str(newcomer)] == [str(root / "2.safetensors")]
        assert loractl(daemon, "audit").returncode == 0


def test_a_file_that_got_another_name_is_not_read_again(root: Path, tmp_path: Path) -> None:
    """A hard link changes the kept file's ctime, which the daemon knows to be its own doing."""
    library(root)
    with daemon_with(tmp_path, root) as daemon, daemon.client() as client:
        daemon.settle()
        before = client.status().bytes_read
        assert client.apply_dedupe("hardlink").done == 2
        again = client.apply_dedupe("hardlink")
        assert (again.done, again.refused) == (0, 0), "what is done already is no refusal"
        daemon.settle()
        assert client.status().bytes_read == before
        assert loractl(daemon, "audit").returncode == 0


def test_what_came_while_no_daemon_ran_is_a_newcomer_too(root: Path, tmp_path: Path) -> None:
    """The catalogue remembers which roots were looked through."""
    library(root)
    daemon = daemon_with(tmp_path, root, "delete")
    daemon.start()
    daemon.settle()
    daemon.stop()
    shutil.copyfile(root / "1.safetensors", root / "overnight.safetensors")
    with daemon, daemon.client() as client, client.events(["action"]) as events:
        if (root / "overnight.safetensors").exists():
            told = next(iter(events)).event
            assert isinstance(told, ActionTaken)
            assert told.path == os.fsencode(root / "overnight.safetensors")
        assert not (root / "overnight.safetensors").exists()
        assert (root / "1 copy.safetensors").exists()


def handle(root: Path) -> None:
    """What people do with files that they have had for long; the bytes stay."""
    for path in root.glob("*.safetensors"):
        path.chmod(0o600)
    os.link(root / "1.safetensors", root / "1 again.safetensors")
    (root / "2 copy.safetensors").rename(root / "2 copy, renamed.safetensors")


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it does not"])
def test_to_rename_an_old_duplicate_makes_it_no_newcomer(root: Path, tmp_path: Path, running: bool) -> None:
    """Nor does another mode, owner or hard link: who runs chmod -R over a grown library loses nothing of it."""
    library(root)
    daemon = daemon_with(tmp_path, root, "delete")
    daemon.start()
    daemon.settle()
    if running:
        handle(root)
        daemon.settle()
    daemon.stop()
    if not running:
        handle(root)
    with daemon, daemon.client() as client, client.events(["action"]) as events:
        daemon.settle()
        for seed in (1, 2):
            shutil.copyfile(root / f"{seed}.safetensors", root / f"{seed} new.safetensors")
        paths = {event.event.path for _, event in zip(range(2), events, strict=False)}
    assert paths == {os.fsencode(root / f"{seed} new.safetensors") for seed in (1, 2)}
    assert len(list(root.glob("*.safetensors"))) == 7


def test_what_was_undone_is_no_reason_to_act_on_others(root: Path, tmp_path: Path) -> None:
    """Also where the rules would rather keep it than the file that had been kept for it."""
    for seed in (1, 2):
        write_safetensors(str(root / f"{seed}.safetensors"), weights(seed))
    with daemon_with(tmp_path, root, "delete", keep=["oldest"]) as daemon, daemon.client() as client:
        daemon.settle()
        with client.events(["action"]) as events:
            shutil.copyfile(root / "1.safetensors", root / "one.safetensors")
            first = next(iter(events)).event
            assert isinstance(first, ActionTaken)
            os.utime(root / "1.safetensors")
            daemon.settle()
            assert client.undo([first.id]).done == 1
            daemon.settle()
            shutil.copyfile(root / "2.safetensors", root / "two.safetensors")
            told = next(iter(events)).event
    assert told.path == os.fsencode(root / "two.safetensors")
    assert {path.name for path in in_view(root)} == {"1.safetensors", "2.safetensors", "one.safetensors"}


def test_an_undone_action_is_not_done_again(root: Path, tmp_path: Path) -> None:
    """Who takes an action back wants the file; the next newcomer is acted on as ever."""
    library(root)
    with daemon_with(tmp_path, root, "delete") as daemon, daemon.client() as client:
        daemon.settle()
        with client.events(["action"]) as events:
            shutil.copyfile(root / "1.safetensors", root / "one.safetensors")
            first = next(iter(events)).event
            assert isinstance(first, ActionTaken)
            assert client.undo([first.id]).done == 1
            daemon.settle()
            shutil.copyfile(root / "1.safetensors", root / "two.safetensors")
            second = next(iter(events)).event
        assert isinstance(second, ActionTaken)
        assert second.path == os.fsencode(root / "two.safetensors")
        assert (root / "one.safetensors").exists()


def test_what_an_undo_makes_anew_under_another_name_stays(root: Path, tmp_path: Path) -> None:
    """Its own name was taken; that it comes as a duplicate of the kept file makes it no newcomer."""
    write_safetensors(str(root / "a.safetensors"), weights(1))
    copy = root / "b.safetensors"
    with daemon_with(tmp_path, root, "delete", grace="0s") as daemon, daemon.client() as client:
        daemon.settle()
        shutil.copy(root / "a.safetensors", copy)
        while [entry.state for entry in client.history()] != ["freed"]:
            daemon.settle()
        write_safetensors(str(copy), weights(2))
        daemon.settle()
        assert client.undo(all=True).done == 1
        daemon.settle()
        daemon.settle()
        assert [entry.state for entry in client.history()] == ["undone"]
        assert (root / "b (given back).safetensors").exists()


def test_a_file_that_is_open_for_writing_is_left_alone(root: Path, tmp_path: Path) -> None:
    """Refused with a word, on the event stream and in the log."""
    library(root)
    with daemon_with(tmp_path, root, "delete") as daemon, daemon.client() as client:
        daemon.settle()
        newcomer = root / "newcomer.safetensors"
        with client.events(["action", "refused"]) as events:
            shutil.copyfile(root / "1.safetensors", tmp_path / "part")
            with open(tmp_path / "part", "r+b"):
                os.rename(tmp_path / "part", newcomer)
                told = next(iter(events)).event
                assert isinstance(told, ActionRefused), told
        assert told.path == os.fsencode(newcomer)
        assert newcomer.read_bytes() == (root / "1.safetensors").read_bytes()


def test_quarantine_is_never_looked_at(root: Path, tmp_path: Path) -> None:
    """Wherever it lies: what is in it is no file of the library."""
    library(root)
    with daemon_with(tmp_path, root) as daemon, daemon.client() as client:
        daemon.settle()
        assert client.apply_dedupe("quarantine").done == 4
        assert client.savings().hidden_bytes > 0
        daemon.settle()
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.settle()
        names = view(daemon.state, "processed")["files"]
        assert {os.path.basename(name) for name in names if name.endswith("safetensors")} == {
            "1.safetensors",
            "2.safetensors",
        }


def worker_of(daemon: Running) -> psutil.Process:
    return daemon.child("lorad.dedupe.process")


def states_after_repair(client: Client) -> list[str]:
    """Of all actions, once what was interrupted is at its end, which takes the start of a process."""
    until = time.monotonic() + 30
    while True:
        states = [one.state for one in client.history()]
        if set(states) <= {"hidden", "quarantined", "refused", "undone"}:
            return states
        assert time.monotonic() < until, states
        time.sleep(0.1)


def kill_worker(daemon: Running) -> None:
    worker_of(daemon).kill()


def kill_daemon(daemon: Running) -> None:
    children = daemon.children()
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, f"children outlived the daemon: {alive}"


def kill_all(daemon: Running) -> None:
    """As a power cut or the end of a control group: nobody is left to finish anything."""
    processes = [*daemon.children(), psutil.Process(daemon.pid)]
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()
    daemon.wait()
    psutil.wait_procs(processes, timeout=20)


@pytest.mark.parametrize("kill", [kill_worker, kill_daemon, kill_all], ids=["worker", "daemon", "all"])
@pytest.mark.parametrize("action", ["hardlink", "symlink", "delete", "quarantine"])
def test_whoever_is_killed_while_it_acts_nothing_is_lost(
    root: Path, tmp_path: Path, action: str, kill: Callable[[Running], None]
) -> None:
    """In the middle of a long plan: every file is there or can be had back, byte for byte; no trace is left."""
    original = write_safetensors(str(root / "original.safetensors"), weights(1))
    os.utime(original, ns=(0, 0))
    for number in range(60):
        shutil.copyfile(original, root / f"{number:02} copy.safetensors")
    before = snapshot(root)
    daemon = daemon_with(tmp_path, root)
    with daemon:
        daemon.settle()
        with daemon.client() as client, client.events(["action"]) as events:
            command = [sys.executable, "-m", "loractl.cli", "dedupe", "--apply", "--action", action, "--json"]
            socket = ("--socket", str(daemon.runtime / "control.sock"))
            nowhere = subprocess.DEVNULL
            request = subprocess.Popen([*command, *socket], stdout=nowhere, stderr=nowhere)
            for _ in range(7):
                next(iter(events))
            kill(daemon)
            request.wait(60)
        daemon.revive()
        daemon.settle()
        with daemon.client() as client:
            states = states_after_repair(client)
            assert states.count("hidden") + states.count("quarantined") >= 7
            assert client.undo(all=True).refused == 0
            daemon.settle()
        assert snapshot(root) == before
        assert loractl(daemon, "audit").returncode == 0
    assert {path.name for path in root.rglob(".*")} <= {".lorad-lock"}


@pytest.mark.parametrize("action", ["hardlink", "delete"])
def test_all_killed_at_any_moment_many_times(root: Path, tmp_path: Path, action: str) -> None:
    """At moments that nobody chose, within commits too: each new start repairs, and in the end all comes back."""
    original = write_safetensors(str(root / "original.safetensors"), weights(1))
    os.utime(original, ns=(0, 0))
    for number in range(100):
        shutil.copyfile(original, root / f"{number:03} copy.safetensors")
    before = snapshot(root)
    daemon = daemon_with(tmp_path, root)
    chance = random.Random(4)
    command = [sys.executable, "-m", "loractl.cli", "dedupe", "--apply", "--action", action, "--json"]
    command += ["--socket", str(daemon.runtime / "control.sock")]
    with daemon:
        for _ in range(4):
            daemon.settle()
            with daemon.client() as client, client.events(["action"]) as events:
                nowhere = subprocess.DEVNULL
                request = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
                next(iter(events))
                time.sleep(chance.uniform(0, 0.2))
                kill_all(daemon)
                request.kill()
                request.wait(60)
            daemon.revive()
            daemon.settle()
            with daemon.client() as client:
                states_after_repair(client)
                assert client.undo(all=True).refused == 0
            assert snapshot(root) == before
        daemon.settle()
        assert loractl(daemon, "audit").returncode == 0


def test_a_policy_that_is_read_again_holds(root: Path, tmp_path: Path) -> None:
    """SIGHUP turns acting on newcomers on and off."""
    library(root)
    with daemon_with(tmp_path, root) as daemon, daemon.client() as client:
        daemon.settle()
        daemon.tables = '[dedupe]\naction = "delete"\n'
        daemon.configure([root])
        daemon.notices.forget()
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.notices.wait_for("READY=1")
        with client.events(["action"]) as events:
            shutil.copyfile(root / "1.safetensors", root / "new.safetensors")
            assert isinstance(next(iter(events)).event, ActionTaken)
        daemon.tables = ""
        daemon.configure([root])
        daemon.notices.forget()
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.notices.wait_for("READY=1")
        shutil.copyfile(root / "1.safetensors", root / "newer.safetensors")
        daemon.settle()
        assert asked(daemon, "dedupe", "--action", "delete")["steps"]
        assert (root / "newer.safetensors").exists()


@pytest.fixture
def client(root: Path, tmp_path: Path) -> Iterator[Client]:
    library(root)
    with daemon_with(tmp_path, root) as daemon, daemon.client() as client:
        daemon.settle()
        yield client


def test_undoing_what_is_not_there_is_told(client: Client) -> None:
    """Each id by itself; the others are undone."""
    assert client.apply_dedupe("delete", levels=["file"]).done == 2
    number = next(client.history()).id
    answer = client.undo([number, 99])
    assert (answer.done, answer.refused) == (1, 1)
    assert "no action 99" in answer.results[0].text
    assert (client.undo([number]).done, client.undo([number]).refused) == (0, 0), "it is undone already"
