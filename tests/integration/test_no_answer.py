"""A root whose file system does not answer holds up no other, nor the daemon's end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loracore.control import FileGivenBack
from loractl import Client
from tests.builders import architectures
from tests.builders.architectures import LayerSpec
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors, write_sparse
from tests.disks import Hanging
from tests.integration.running import Running
from tests.integration.scanning import duplicate_sets, view
from tests.integration.test_daemon import lora
from tests.integration.test_places import acted_on, dedupe

SPECS = architectures.sd15(4, width=4, every=12)


def pair(folder: Path, seed: int) -> frozenset[str]:
    """Two files of the same weights."""
    paths = [str(folder / f"{seed}{name}.safetensors") for name in "ab"]
    for path in paths:
        write_safetensors(path, random_weights(SPECS, seed))
    return frozenset(paths)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.mkdir()
    return path


@pytest.fixture
def daemon(tmp_path: Path, local: Path, hanging: Hanging) -> Iterator[Running]:
    """One with a single loader, over a local root and one that may hang."""
    (tmp_path / "lorad").mkdir()
    with Running(tmp_path / "lorad", [local, hanging.folder], tables="[pipeline]\nloaders = 1\n") as daemon:
        yield daemon


def health(client: Client, folder: Path) -> str:
    return next(root.health for root in client.status().roots if root.path == os.fsencode(folder))


def test_others_go_on_and_all_is_found_when_it_answers_again(
    daemon: Running, local: Path, hanging: Hanging, tmp_path: Path
) -> None:
    """Status, doctor, audit and waits answer; what came to it meanwhile is found, and nothing of it is gone."""
    served = pair(hanging.folder, 1)
    daemon.settle()
    hanging.hang()
    with daemon.client() as client:
        while health(client, hanging.folder) != "degraded":
            pass
        first = pair(local, 2)
        daemon.settle()
        assert duplicate_sets(daemon.state) == {served, first}
        doctor = {one.name: one for one in client.doctor().findings}
        assert "does not answer" in doctor[f"folder {hanging.folder}"].text
        assert [(one.path, one.text) for one in client.audit().differences] == [
            (os.fsencode(hanging.folder), "this watched folder does not answer")
        ]
        plan = client.plan_dedupe("delete")
        assert [os.fsdecode(step.kept) in first for step in plan.steps] == [True]
        assert {os.fsdecode(row.path) for row in plan.skipped if "does not answer" in row.reason} == served
        os.kill(daemon.pid, signal.SIGHUP)
        second = pair(local, 3)
        daemon.settle()
        assert duplicate_sets(daemon.state) == {served, first, second}
        pair(tmp_path / "source", 4)
        hanging.go_on()
        while health(client, hanging.folder) != "polling":
            pass
        daemon.settle()
        late = frozenset(str(hanging.folder / f"4{name}.safetensors") for name in "ab")
        assert duplicate_sets(daemon.state) == {served, first, second, late}
        assert client.audit().differences == []


def test_a_loader_that_waits_for_it_is_replaced(daemon: Running, local: Path, hanging: Hanging) -> None:
    """No file is to blame for that; the other roots' are read, and its own when it answers again."""
    for name in "ab":
        write_sparse(str(hanging.folder / f"{name}.safetensors"), [LayerSpec("w", "U8", (1 << 40,))])
    with daemon.client() as client:
        while client.status().files.get("grouped") != 2:
            pass
        hanging.hang()
        found = pair(local, 1)
        daemon.settle()
        assert duplicate_sets(daemon.state) == {found}
        statuses = {path: file["status"] for path, file in view(daemon.state, "processed")["files"].items()}
        assert [statuses[str(hanging.folder / f"{name}.safetensors")] for name in "ab"] == ["grouped"] * 2
        hanging.go_on()
        (hanging.folder / "a.safetensors").unlink()
        while client.status().files != {"duplicate": 2, "unique": 1}:
            pass


def test_a_mount_inside_a_root_holds_up_nothing_else_of_it(tmp_path: Path, local: Path, hanging: Hanging) -> None:
    """It is named among what failed, and what is in it is neither gone nor forgotten."""
    inside = local / "inside"
    inside.mkdir()
    subprocess.run(["mount", "--bind", hanging.folder, inside], check=True)
    try:
        with Running(tmp_path, [local]) as daemon, daemon.client() as client:
            served = pair(inside, 1)
            daemon.settle()
            hanging.hang()
            found = pair(local, 2)
            daemon.settle()
            assert duplicate_sets(daemon.state) == {served, found}
            while not (failed := list(client.failed())):
                pass
            assert [(one.path, "does not answer" in one.reason) for one in failed] == [(os.fsencode(inside), True)]
            assert client.audit().differences == []
            hanging.go_on()
            while list(client.failed()):
                pass
            daemon.settle()
            assert duplicate_sets(daemon.state) == {served, found}
    finally:
        subprocess.run(["umount", "--lazy", inside], check=True)


def given_back(daemon: Running, do: Callable[[], object]) -> bytes:
    """Do something, and tell which file is given back next."""
    with daemon.client() as client, client.events(["given-back"]) as events:
        do()
        event = next(told.event for told in events if isinstance(told.event, FileGivenBack))
        return event.path


def test_what_hangs_behind_a_followed_link_is_not_missed(tmp_path: Path, local: Path, hanging: Hanging) -> None:
    """It keeps neither the core nor what is missed elsewhere waiting; removed once it answers, it is missed."""
    far, near, third = (lora(local / f"{seed}.safetensors", seed) for seed in range(3))
    (tmp_path / "lorad").mkdir()
    tables = dedupe(action='"delete"')
    with Running(tmp_path / "lorad", [local], tables=tables, follow_symlinks="true") as daemon:
        daemon.settle()
        copies = [path.with_name(f"{path.stem} (1).safetensors") for path in (far, near, third)]
        for path, copy in zip((far, near), copies, strict=False):
            acted_on(daemon, lambda path=path, copy=copy: shutil.copy(path, copy))  # type: ignore[misc]
        target = hanging.folder / "far.safetensors"
        shutil.move(far, target)
        far.symlink_to(target)
        daemon.settle()
        daemon.settle()
        hanging.hang()
        near.unlink()
        while not copies[1].exists():
            pass
        assert acted_on(daemon, lambda: shutil.copy(third, copies[2])) == os.fsencode(copies[2])
        assert not copies[0].exists()
        hanging.go_on()
        target.unlink()
        while not copies[0].exists():
            pass


def test_it_may_hang_when_the_daemon_starts(daemon: Running, local: Path, hanging: Hanging) -> None:
    served = pair(hanging.folder, 1)
    daemon.settle()
    daemon.stop()
    hanging.hang()
    daemon.start()
    found = pair(local, 2)
    daemon.settle()
    assert duplicate_sets(daemon.state) == {served, found}
    assert daemon.stop() == 0
    hanging.go_on()
    daemon.start()
    daemon.settle()
    assert duplicate_sets(daemon.state) == {served, found}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_daemon_ends(daemon: Running, hanging: Hanging, number: int) -> None:
    """Also at the moment when it has just begun to hang, with calls under way."""
    pair(hanging.folder, 1)
    daemon.settle()
    hanging.hang()
    assert daemon.stop(number) == 0


def test_processes_of_a_daemon_take_signals(daemon: Running) -> None:
    """It has them blocked itself, and takes them in a thread of its own."""
    daemon.settle()
    for child in daemon.children():
        status = Path(f"/proc/{child.pid}/status").read_text()
        assert int(status.partition("SigBlk:")[2].split()[0], 16) & 1 << (signal.SIGTERM - 1) == 0
