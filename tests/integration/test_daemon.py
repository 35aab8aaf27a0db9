"""A day in the life of a daemon: files come, change, move and go while it runs, and it is told to do things."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from loracore.errors import LoraError, RefusedError
from loractl import Client
from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.running import Running, running
from tests.integration.scanning import duplicate_sets, view

SPECS = architectures.sd15(8, width=1, every=3)


def lora(path: Path, seed: int, **metadata: str) -> Path:
    write_safetensors(str(path), random_weights(SPECS, seed), metadata=metadata or None)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    for seed in range(4):
        lora(path / f"{seed}.safetensors", seed)
    return path


def sets(daemon: Running) -> set[frozenset[str]]:
    """The sets of duplicates by the names of their files."""
    daemon.settle()
    return {frozenset(os.path.basename(path) for path in group) for group in duplicate_sets(daemon.state)}


def statuses(daemon: Running) -> dict[str, str]:
    daemon.settle()
    files = view(daemon.state, "processed")["files"]
    return {os.path.basename(path): file["status"] for path, file in files.items()}


def test_a_newcomer_is_found_and_its_end_as_well(root: Path, tmp_path: Path) -> None:
    with running(tmp_path / "lorad", root) as daemon:
        assert sets(daemon) == set()
        lora(root / "copy.safetensors", 1, title="edited")
        assert sets(daemon) == {frozenset({"1.safetensors", "copy.safetensors"})}
        (root / "copy.safetensors").unlink()
        assert sets(daemon) == set()
        assert set(statuses(daemon)) == {f"{seed}.safetensors" for seed in range(4)}


def test_a_unique_newcomer_costs_its_header_and_samples(root: Path, tmp_path: Path) -> None:
    with running(tmp_path / "lorad", root) as daemon, daemon.client() as client:
        before = client.status().bytes_read
        path = lora(root / "new.safetensors", 77)
        daemon.settle()
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        assert client.status().bytes_read - before <= header + 16384


def test_moves_renames_and_overwriting(root: Path, tmp_path: Path) -> None:
    with running(tmp_path / "lorad", root) as daemon:
        (root / "0.safetensors").rename(root / "renamed.safetensors")
        aside = tmp_path / "aside"
        aside.mkdir()
        shutil.copytree(root, aside / "collection")
        lora(root / "2.safetensors", 3)
        (aside / "collection").rename(root / "collection")
        assert sets(daemon) == {
            frozenset({"renamed.safetensors"}),
            frozenset({"1.safetensors"}),
            frozenset({"2.safetensors", "3.safetensors"}),
        }
        assert len(view(daemon.state, "processed")["files"]) == 8
        (root / "collection").rename(aside / "collection")
        assert sets(daemon) == {frozenset({"2.safetensors", "3.safetensors"})}
        assert len(view(daemon.state, "processed")["files"]) == 4


def test_half_a_download_is_not_read_before_it_is_there(root: Path, tmp_path: Path) -> None:
    whole = lora(tmp_path / "whole.safetensors", 2).read_bytes()
    with running(tmp_path / "lorad", root, settle_seconds=0.1, quiet_seconds=30.0) as daemon:
        with (root / "inplace.safetensors").open("wb") as file, (root / "other.part").open("wb") as part:
            for start in range(0, len(whole), len(whole) // 5 + 1):
                file.write(whole[start : start + len(whole) // 5 + 1])
                file.flush()
                part.write(whole[start : start + len(whole) // 5 + 1])
                part.flush()
        (root / "other.part").rename(root / "other.safetensors")
        assert sets(daemon) == {frozenset({"2.safetensors", "inplace.safetensors", "other.safetensors"})}
        assert "failed" not in statuses(daemon).values()


def test_a_restart_reads_nothing_again(root: Path, tmp_path: Path) -> None:
    lora(root / "copy.safetensors", 1)
    with running(tmp_path / "lorad", root) as daemon:
        expected = sets(daemon)
        assert daemon.stop() == 0
        (root / "3.safetensors").unlink()
        daemon.start()
        assert sets(daemon) == expected
        assert "3.safetensors" not in statuses(daemon)
        with daemon.client() as client:
            assert client.status().bytes_read == 0


def test_nothing_is_left_after_the_end(root: Path, tmp_path: Path) -> None:
    with running(tmp_path / "lorad", root) as daemon:
        assert daemon.stop() == 0
        assert sorted(path.name for path in daemon.runtime.iterdir()) == ["lock", "notify"]
        assert not list(daemon.state.glob("*.new"))


def test_a_second_daemon_is_refused(root: Path, tmp_path: Path) -> None:
    with running(tmp_path / "lorad", root) as daemon:
        for state, runtime in ((daemon.state, tmp_path / "r"), (tmp_path / "s", daemon.runtime)):
            command = [sys.executable, "-m", "lorad", "--watch", str(root), "--state-dir", str(state)]
            ended = subprocess.run(
                [*command, "--runtime-dir", str(runtime)], capture_output=True, text=True, timeout=30, check=False
            )
            assert ended.returncode == 5
            assert "another lorad" in ended.stderr
            assert len(ended.stderr.splitlines()) == 1
        assert sets(daemon) == set()


def test_roots_come_and_go_with_a_hangup(root: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    lora(more / "twin.safetensors", 0)
    with running(tmp_path / "lorad", root) as daemon:
        for roots, expected in (
            ([root, more], {frozenset({"0.safetensors", "twin.safetensors"})}),
            ([root], set()),
            ([more, root], {frozenset({"0.safetensors", "twin.safetensors"})}),
        ):
            daemon.configure(roots)
            os.kill(daemon.pid, signal.SIGHUP)
            daemon.notices.wait_for("READY=1")
            assert sets(daemon) == expected
        daemon.config.write_text("[watch]\nrotos = []\n")
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.notices.wait_for("READY=1")
        assert sets(daemon) == {frozenset({"0.safetensors", "twin.safetensors"})}
        with daemon.client() as client:
            assert "rotos" in client.status().errors[-1].text


def test_a_root_that_vanishes_is_no_deletion(root: Path, tmp_path: Path) -> None:
    lora(root / "copy.safetensors", 1)
    with running(tmp_path / "lorad", root) as daemon:
        expected = sets(daemon)
        root.rename(tmp_path / "away")
        daemon.settle()
        assert sets(daemon) == expected
        with daemon.client() as client:
            assert client.status().roots[0].health == "missing"
        (tmp_path / "away").rename(root)
        (root / "0.safetensors").unlink()
        with daemon.client() as client, client.events(["watch"]) as events:
            while client.status().roots[0].health != "watching":
                events.next(timeout=10)
        assert sets(daemon) == expected
        assert "0.safetensors" not in statuses(daemon)


def test_a_stopped_child_is_replaced_and_its_work_done(root: Path, tmp_path: Path) -> None:
    with running(tmp_path / "lorad", root) as daemon:
        for module in ("lorad.pipeline.loader", "lorad.pipeline.hasher", "lorad.publish"):
            child = daemon.child(module)
            child.suspend()
            lora(root / f"{module}.safetensors", 3)
            daemon.settle()
            assert not child.is_running()
        assert sets(daemon) == {
            frozenset(
                {"3.safetensors", "lorad.pipeline.loader.safetensors", "lorad.pipeline.hasher.safetensors"}
                | {"lorad.publish.safetensors"}
            )
        }
        with daemon.client() as client:
            restarts = {child.name: child.restarts for child in client.status().children}
            assert min(restarts["hasher"], restarts["publisher"], max(restarts.values())) >= 1


def test_what_happens_while_it_is_stopped_is_not_missed(root: Path, tmp_path: Path) -> None:
    count = 20_000
    with running(tmp_path / "lorad", root) as daemon:
        os.kill(daemon.pid, signal.SIGSTOP)
        for number in range(count):
            folder = root / str(number % 50)
            folder.mkdir(exist_ok=True)
            (folder / f"{number}.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        os.kill(daemon.pid, signal.SIGCONT)
        daemon.settle(timeout=100)
        assert len(view(daemon.state, "processed")["files"]) == count + 4


def test_the_end_comes_while_it_works(root: Path, tmp_path: Path) -> None:
    for seed in range(4):
        shutil.copytree(root, root / f"folder{seed}")
    folder = tmp_path / "lorad"
    folder.mkdir()
    with Running(folder, [root]) as daemon:
        assert daemon.stop() == 0
        daemon.start()
        assert statuses(daemon)


def test_roots_that_change_while_headers_are_read(root: Path, tmp_path: Path) -> None:
    """Layouts that loaders sent to the engine before are sent again to the one that follows."""
    for number in range(300):
        specs = architectures.sd15(number % 30 + 1, width=1, every=4)
        write_safetensors(str(root / f"many{number}.safetensors"), random_weights(specs, number))
    more = tmp_path / "more"
    more.mkdir()
    folder = tmp_path / "lorad"
    folder.mkdir()
    with Running(folder, [root]) as daemon:
        for roots in ([root, more], [root], [root, more]):
            daemon.configure(roots)
            os.kill(daemon.pid, signal.SIGHUP)
            daemon.notices.wait_for("READY=1")
        assert set(statuses(daemon).values()) <= {"unique", "duplicate"}
        assert len(statuses(daemon)) == 304


def test_relative_paths_are_those_of_the_start(root: Path, tmp_path: Path) -> None:
    lora(root / "copy.safetensors", 1)
    (tmp_path / "lorad").mkdir()
    with Running(tmp_path / "lorad", []) as daemon:
        daemon.stop()
        (tmp_path / "c.toml").write_text("[watch]\nsettle_seconds = 0.1\n")
        command = [
            sys.executable,
            "-m",
            "lorad",
            "--config",
            "c.toml",
            "--watch",
            "models",
            "--state-dir",
            "lorad/state",
        ]
        daemon.notices.forget()
        daemon.process = subprocess.Popen(
            [*command, "--runtime-dir", os.path.relpath(daemon.runtime, tmp_path)],
            cwd=tmp_path,
            env={**os.environ, "NOTIFY_SOCKET": daemon.notices.address},
            stderr=subprocess.DEVNULL,
        )
        daemon.notices.wait_for("READY=1")
        expected = {frozenset({"1.safetensors", "copy.safetensors"})}
        assert sets(daemon) == expected
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.notices.wait_for("READY=1")
        assert sets(daemon) == expected
        with daemon.client() as client:
            assert not client.status().errors


def test_a_link_that_loses_a_name_is_looked_at_again(root: Path, tmp_path: Path) -> None:
    os.link(root / "0.safetensors", root / "link.safetensors")
    os.link(root / "0.safetensors", root / "third.safetensors")
    with running(tmp_path / "lorad", root) as daemon, daemon.client() as client:
        (root / "1.safetensors").rename(root / "link.safetensors")
        daemon.settle()
        assert client.audit().differences == []
        (root / "third.safetensors").unlink()
        daemon.settle()
        assert client.audit().differences == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_waited_out(root: Path, tmp_path: Path) -> None:
    """What could not be committed is learnt again; nobody is told that all is well meanwhile."""
    folder = tmp_path / "lorad"
    (folder / "state").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "lorad-test", folder / "state"], check=True)
    try:
        with running(folder, root) as daemon, daemon.client() as client:
            stuffing = daemon.state / "stuffing"
            with suppress(OSError), stuffing.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            for number in range(60):
                specs = architectures.sd15(number % 30 + 1, width=1, every=4)
                write_safetensors(str(root / f"new{number}.safetensors"), random_weights(specs, number))
            with pytest.raises(RefusedError, match="full"):
                client.wait(60)
            stuffing.unlink()
            daemon.settle_when_it_can()
            assert len(statuses(daemon)) == 64
            assert client.audit().differences == []
    finally:
        subprocess.run(["umount", "-l", folder / "state"], check=True)


def test_an_adapter_folder_is_its_weights(root: Path, tmp_path: Path) -> None:
    (root / "adapter").mkdir()
    weights = lora(root / "adapter" / "adapter_model.safetensors", 9)
    with running(tmp_path / "lorad", root) as daemon, daemon.client() as client:
        assert client.show(weights.parent).path == os.fsencode(weights)


def test_without_a_daemon_the_client_says_so(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="start it"):
        Client(str(tmp_path / "control.sock")).status()
