"""A pipe where a file should be: nothing waits for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from loracore.paths import CATALOGUE
from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.running import Running
from tests.integration.scanning import VIEWS, duplicate_sets, loractl, scan

SPECS = architectures.sd15(4, width=4, every=12)
#: Names in a state folder that lorad can do without, or makes anew.
DISPENSABLE = [*(f"{view}.json" for view in VIEWS), *(f"{view}.json.new" for view in VIEWS), "run/mounts.json"]
#: Those that it waits to have back.
NEEDED = [CATALOGUE, f"{CATALOGUE}-wal", f"{CATALOGUE}-journal"]


def bound(path: Path) -> None:
    """A socket of this name."""
    before = os.getcwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    for name in "ab":
        write_safetensors(str(path / f"{name}.safetensors"), random_weights(SPECS, 1))
    return path


def twins(root: Path) -> set[frozenset[str]]:
    return {frozenset(str(root / f"{name}.safetensors") for name in "ab")}


@pytest.mark.parametrize("make", [os.mkfifo, bound], ids=["pipe", "socket"])
def test_in_a_library(tmp_path: Path, root: Path, make: Callable[[Path], None]) -> None:
    """Whatever its name promises, it is ignored."""
    for suffix in ("safetensors", "pt", "ckpt", "bin", "part", "txt"):
        make(root / f"p.{suffix}")
    folder = root / "adapter"
    folder.mkdir()
    make(folder / "adapter_config.json")
    write_safetensors(str(folder / "adapter_model.safetensors"), random_weights(SPECS, 2))
    state = tmp_path / "state"
    assert scan(root, state).report["failed"] == 0
    assert duplicate_sets(state) == twins(root)


@pytest.mark.parametrize("make", [os.mkfifo, bound], ids=["pipe", "socket"])
def test_as_files_of_the_state_folder_that_are_made_anew(
    tmp_path: Path, root: Path, make: Callable[[Path], None]
) -> None:
    with Running(tmp_path, [root]) as daemon:
        daemon.settle()
    for name in DISPENSABLE:
        (daemon.state / name).unlink(missing_ok=True)
        make(daemon.state / name)
    with Running(tmp_path, [root]) as daemon:
        daemon.settle()
        assert duplicate_sets(daemon.state) == twins(root)
        with daemon.client() as client:
            assert client.audit().differences == []


@pytest.mark.parametrize("name", NEEDED)
def test_as_the_catalogue(tmp_path: Path, root: Path, name: str) -> None:
    """The daemon says what it is missing, answers, and goes on when that is taken away."""
    with Running(tmp_path, [root]) as daemon:
        daemon.settle()
    aside = daemon.state / "aside"
    if (daemon.state / name).exists():
        (daemon.state / name).rename(aside)
    os.mkfifo(daemon.state / name)
    assert f"{name} is not a regular file" in scan(root, daemon.state).stderr
    with Running(tmp_path, [root]) as daemon, daemon.client() as client:
        while not any("not a regular file; move it away" in error.text for error in client.status().errors):
            pass
        (daemon.state / name).unlink()
        if aside.exists():
            aside.rename(daemon.state / name)
        daemon.settle_when_it_can()
        assert duplicate_sets(daemon.state) == twins(root)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--socket", "tcp://127.0.0.1:1", "--server-key", "PIPE", "status"],
        ["resize", "--local", "--rank", "2", "--rank-per-block", "PIPE", "-o", "out.safetensors", "a.safetensors"],
        ["metadata", "--local", "PIPE"],
        ["report", "--local", "."],
        ["bake", "--local", "--base", "base", "-o", "out", "a.safetensors"],
        ["scan", "PIPE"],
    ],
    ids=lambda arguments: next(word for word in arguments if word.isalpha() and word != "PIPE"),
)
def test_as_what_a_command_reads(root: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused in one line, at once."""
    monkeypatch.chdir(root)
    os.mkfifo("PIPE.safetensors")
    os.mkfifo("PIPE")
    os.mkfifo("weight_differences.json")
    (root / "base").mkdir()
    os.mkfifo(root / "base" / "config.json")
    os.mkfifo(root / "base" / "model.safetensors.index.json")
    ended = loractl(*arguments, timeout=30)
    assert ended.returncode in (1, 2)
    assert "Traceback" not in ended.stderr
