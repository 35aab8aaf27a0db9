"""What is hidden returns when it is missed, also where the state folder is full, away, gone or from a backup."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loracore.errors import RefusedError
from tests.integration.running import Running
from tests.integration.test_daemon import lora
from tests.integration.test_places import acted_on, dedupe

NAME, COPY = "style.safetensors", "style (1).safetensors"
TABLES = dedupe(action='"delete"')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    lora(path / NAME, 1)
    lora(path / "other.safetensors", 2)
    return path


@pytest.fixture
def daemon(tmp_path: Path, root: Path, disk: Callable[[str], str]) -> Iterator[Running]:
    """One with its state folder on a disk of its own, which has hidden a copy."""
    with Running(Path(disk("ext4")), [root], tables=TABLES) as daemon:
        daemon.settle()
        acted_on(daemon, lambda: shutil.copy(root / NAME, root / COPY))
        daemon.settle()
        assert not (root / COPY).exists()
        yield daemon


def returned(path: Path) -> None:
    while not path.exists():
        pass


def fill(folder: Path) -> Path:
    """Take all room there is; the file that has it."""
    path = folder / "full"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path


@pytest.mark.parametrize("restarted", [False, True])
def test_the_disk_of_the_state_folder_is_full(daemon: Running, root: Path, *, restarted: bool) -> None:
    """Also for a daemon that starts so; once there is room, all is as if there always was."""
    full = fill(daemon.state)
    lora(root / "more.safetensors", 3)
    if restarted:
        daemon.stop(signal.SIGKILL)
        (root / NAME).unlink()
        daemon.start(ready=False)
    else:
        (root / NAME).unlink()
    returned(root / COPY)
    full.unlink()
    daemon.settle_when_it_can()
    with daemon.client() as client:
        while [entry.state for entry in client.history()] != ["given_back"]:
            daemon.settle()
        assert client.audit().differences == []


def test_the_state_folder_is_away(daemon: Running, root: Path) -> None:
    """Once it is back, the journal says what became of the file."""
    away = daemon.state.rename(daemon.state.with_name("away"))
    (root / NAME).unlink()
    returned(root / COPY)
    daemon.stop(signal.SIGKILL)
    shutil.rmtree(daemon.state, ignore_errors=True)
    away.rename(daemon.state)
    daemon.start()
    daemon.settle()
    with daemon.client() as client:
        while [entry.state for entry in client.history()] != ["given_back"]:
            daemon.settle()


def test_the_state_folder_was_removed(daemon: Running, root: Path) -> None:
    """A new journal knows of no action: what is hidden stays so as long as it is not missed, and returns then."""
    daemon.stop()
    shutil.rmtree(daemon.state)
    daemon.start()
    daemon.settle()
    assert not (root / COPY).exists()
    with daemon.client() as client:
        assert list(client.history()) == []
    (root / NAME).unlink()
    returned(root / COPY)
    daemon.settle()
    assert {path.name for path in root.iterdir()} == {COPY, "other.safetensors", ".lorad-lock"}
    with daemon.client() as client:
        assert client.audit().differences == []


def test_the_journal_was_removed_under_a_running_daemon(daemon: Running, root: Path) -> None:
    """Nothing is written down, and the file returns all the same."""
    for path in daemon.state.glob("journal*"):
        path.unlink()
    (root / NAME).unlink()
    returned(root / COPY)


@pytest.mark.parametrize("running", [False, True])
def test_a_folder_that_no_journal_knows_returns_as_a_whole(tmp_path: Path, root: Path, *, running: bool) -> None:
    """With all that is in it; whether lorad runs as it is missed, or is started then."""
    folder, copy = root / "A", root / "B"
    folder.mkdir()
    lora(folder / "adapter_model.safetensors", 4)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    with Running(tmp_path, [root], tables=TABLES) as daemon:
        daemon.settle()
        acted_on(daemon, lambda: shutil.copytree(folder, copy))
        daemon.settle()
        assert not copy.exists()
        daemon.stop()
        shutil.rmtree(daemon.state)
        if not running:
            shutil.rmtree(folder)
        daemon.start()
        if running:
            daemon.settle()
            shutil.rmtree(folder)
        returned(copy)
        assert {path.name for path in copy.iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}


@pytest.mark.parametrize("stem", ["style (1)", "s" * 243], ids=["short", "longest"])
def test_the_sidecars_of_what_no_journal_knows_return_with_it(tmp_path: Path, root: Path, stem: str) -> None:
    """Of names that are as long as names can be, the end is cut."""
    sidecar, copy = root / f"{stem}.txt", root / f"{stem}.safetensors"
    with Running(tmp_path, [root], tables=dedupe(action='"delete"', sidecars='"move"')) as daemon:
        daemon.settle()
        sidecar.write_text("trigger words")
        acted_on(daemon, lambda: shutil.copy(root / NAME, copy))
        daemon.settle()
        assert not copy.exists()
        assert not sidecar.exists()
        daemon.stop()
        for path in daemon.state.glob("journal*"):
            path.unlink()
        (root / NAME).rename(tmp_path / NAME)
        daemon.start()
        begin = stem[:200]
        while len(found := sorted(root.glob(f"{begin}*"))) < 2:
            pass
        assert [path.read_bytes() for path in found] == [(tmp_path / NAME).read_bytes(), b"trigger words"]
        assert [path.suffix for path in found] == [".safetensors", ".txt"]
        assert found == [copy, sidecar] or len(stem) > len(begin)


def test_a_journal_from_a_backup_gives_a_number_again(tmp_path: Path, root: Path) -> None:
    """What was hidden by the first action of that number returns all the same."""
    (root / "sub").mkdir()
    for seed in (3, 4, 5):
        lora(root / f"kept{seed}.safetensors", seed)

    def hide(daemon: Running, seed: int, copy: Path) -> None:
        acted_on(daemon, lambda: shutil.copy(root / f"kept{seed}.safetensors", copy))
        daemon.settle()

    with Running(tmp_path, [root], tables=TABLES) as daemon:
        daemon.settle()
        hide(daemon, 3, root / "first.safetensors")
        daemon.stop()
        backup = shutil.copy(daemon.state / "journal.sqlite", tmp_path / "backup")
        daemon.start()
        daemon.settle()
        hide(daemon, 4, root / "second.safetensors")
        daemon.stop()
        shutil.copy(backup, daemon.state / "journal.sqlite")
        daemon.start()
        daemon.settle()
        hide(daemon, 5, root / "sub" / "again.safetensors")
        with daemon.client() as client:
            assert [entry.id for entry in client.history()] == [1, 2]
        shutil.rmtree(root / "sub")
        daemon.stop()
        daemon.start()
        daemon.settle()
        (root / "kept4.safetensors").unlink()
        returned(root / "second.safetensors")


def test_a_copy_of_what_is_hidden_returns_when_all_else_is_gone(daemon: Running, root: Path) -> None:
    """It is nobody's action, and yet what its owner has of these weights."""
    (root / "kept").mkdir()
    hidden = next(root.glob(".*.aside-*"))
    shutil.copy2(hidden, root / "kept" / hidden.name)
    daemon.settle()
    hidden.unlink()
    (root / NAME).unlink()
    returned(root / "kept" / COPY)


def test_a_folder_that_holds_what_is_hidden_is_not_hidden_itself(tmp_path: Path, root: Path) -> None:
    """What is in it would not return while the folder is away."""
    for name in ("A", "B"):
        (root / name / "sub").mkdir(parents=True)
        lora(root / name / "adapter_model.safetensors", 4)
        (root / name / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    lora(root / "B" / "sub" / "x.safetensors", 1)
    with Running(tmp_path, [root], tables=TABLES) as daemon, daemon.client() as client:
        daemon.settle()
        client.apply_dedupe()
        daemon.settle()
        assert not (root / "B" / "sub" / "x.safetensors").exists()
        client.apply_dedupe()
        daemon.settle()
        assert (root / "B" / "adapter_model.safetensors").exists()
        (root / NAME).unlink()
        returned(root / "B" / "sub" / "x.safetensors")


def test_a_hard_link_made_elsewhere_is_no_difference(daemon: Running, tmp_path: Path, root: Path) -> None:
    """It changes what the system says of the file, and no watch tells of it."""
    os.link(root / NAME, tmp_path / "elsewhere")
    daemon.settle()
    with daemon.client() as client:
        assert client.audit().differences == []


def test_nothing_is_made_where_the_disk_of_the_state_folder_was(
    tmp_path: Path, root: Path, disk: Callable[[str], str]
) -> None:
    """What was known and done is on that disk: another journal would know nothing of what is hidden."""
    source, state = disk("ext4"), tmp_path / "lorad" / "state"
    state.mkdir(parents=True)
    subprocess.run(["mount", "--bind", source, state], check=True)
    with Running(tmp_path / "lorad", [root], tables=TABLES) as daemon, daemon.client() as client:
        daemon.settle()
        acted_on(daemon, lambda: shutil.copy(root / NAME, root / COPY))
        daemon.settle()
        subprocess.run(["umount", "--lazy", state], check=True)
        (root / NAME).unlink()
        returned(root / COPY)
        with pytest.raises(RefusedError, match=r"no longer there|another one"):
            client.wait(30)
        assert {path.name for path in state.iterdir()} <= {"run"}
