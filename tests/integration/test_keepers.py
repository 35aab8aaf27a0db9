"""SPEC section 5: the kept file is the same in the JSON files, queries, plans and actions, whatever changes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.running import Running, running
from tests.integration.scanning import view

LAYERS = random_weights(architectures.sd15(4, width=16, every=12), 1)


def lora(path: Path, age: int = 0) -> Path:
    """The same file each time, but for its mtime."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(str(path), LAYERS)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def kept_by_all(daemon: Running) -> Path:
    """The one file that all name as the kept one, once all that is on the disk is known."""
    daemon.settle()
    (path,) = view(daemon.state, "duplicates")["duplicates"]
    with daemon.client() as client:
        (shown,) = client.duplicates()
        planned = client.plan_dedupe("symlink")
        audited = client.audit()
    assert os.fsdecode(shown.kept) == path
    assert {os.fsdecode(step.kept) for step in planned.steps} <= {path}
    assert audited.differences == []
    return Path(path)


def wait_until(daemon: Running, kept: Path, change: Callable[[], object]) -> None:
    """Make a change, and wait for the generation in which this file is kept."""
    with daemon.client() as client, client.events({"published"}) as events:
        change()
        for _ in events:
            if str(kept) in view(daemon.state, "duplicates")["duplicates"]:
                return


def test_other_rules_are_a_new_generation(tmp_path: Path) -> None:
    """SIGHUP takes them over at once; names of copies and training steps are not kept before final ones."""
    root = tmp_path / "loras"
    marked, final = lora(root / "a/style-000010.safetensors", age=9), lora(root / "b/style.safetensors")
    lora(root / "a/style (1).safetensors", age=5)
    with running(tmp_path / "daemon", root) as daemon:
        assert kept_by_all(daemon) == final
        daemon.tables = "[dedupe]\nkeep = ['oldest']"
        daemon.configure([root])
        assert daemon.process is not None
        wait_until(daemon, marked, lambda: daemon.process.send_signal(signal.SIGHUP))
        assert kept_by_all(daemon) == marked
        with daemon.client() as client:
            client.apply_dedupe("delete")
        daemon.settle()
        assert [path for path in root.rglob("*.safetensors") if not path.name.startswith(".")] == [marked]


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Path]:
    """A folder that is mounted below the root, read-only."""
    if os.geteuid():
        pytest.skip("only root can mount")
    source, point = tmp_path / "source", tmp_path / "loras/frozen"
    for folder in (source, point):
        folder.mkdir(parents=True)
    subprocess.run(["mount", "--bind", source, point], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
    yield point
    subprocess.run(["umount", "--lazy", point], check=True)


def test_a_disk_that_becomes_read_only_keeps_nothing_any_more(tmp_path: Path, frozen: Path) -> None:
    """And `audit` finds no difference at any time: a generation goes by what was mounted when it was made."""
    root = tmp_path / "loras"
    oldest = frozen / "a.safetensors"
    shutil.copy2(lora(tmp_path / "source/a.safetensors", age=9), tmp_path / "spare")
    second = lora(root / "other/b.safetensors", age=5)
    lora(root / "other/c.safetensors")

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,bind,{how}", frozen], check=True)

    with running(tmp_path / "daemon", root) as daemon:
        assert kept_by_all(daemon) == second
        with daemon.client() as client:
            planned = client.plan_dedupe("delete")
        assert {(Path(os.fsdecode(one.path)), one.reason) for one in planned.skipped} == {
            (oldest, "on a read-only file system")
        }
        wait_until(daemon, oldest, lambda: remount("rw"))
        assert kept_by_all(daemon) == oldest

        def back() -> None:
            remount("ro")
            with daemon.client() as client:
                assert client.audit().differences == []

        wait_until(daemon, second, back)
        assert kept_by_all(daemon) == second
        daemon.tables = f"[dedupe]\nkeep = ['path-prefix:{frozen}']"
        daemon.configure([root])
        assert daemon.process is not None
        wait_until(daemon, oldest, lambda: daemon.process.send_signal(signal.SIGHUP))
        assert kept_by_all(daemon) == oldest
