"""A file on which loaders die is found out, and costs three loaders, not the scan."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import psutil
import pytest

from loracore.paths import CATALOGUE
from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors, write_sparse
from tests.integration.scanning import Embedded, duplicate_sets, scan, view


def is_in_a_layer(loader: psutil.Process) -> bool:
    """Whether it has read more than start-up, headers and samples: else its answer may be on its way already."""
    try:
        return bool(loader.io_counters().read_chars > 64 << 20)
    except psutil.NoSuchProcess:
        return False


def kill_readers(embedded: Embedded, path: Path, times: int) -> None:
    """SIGKILL whichever process reads `path`, as if the file had crashed it, so often."""
    victims: set[int] = set()
    while len(victims) < times and embedded.process.poll() is None:
        for child in embedded.children():
            try:
                opened = {os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")}
            except (OSError, psutil.NoSuchProcess):
                continue
            if child.pid not in victims and str(path) in opened and is_in_a_layer(child):
                child.send_signal(signal.SIGKILL)
                victims.add(child.pid)
    assert len(victims) == times


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files with a layer that takes a while to read, and two that do not."""
    path = tmp_path / "loras"
    path.mkdir()
    big = [architectures.LayerSpec("big", "U8", (3 << 30,))]
    for name in ("poison", "twin"):
        write_sparse(str(path / f"{name}.safetensors"), big)
    layers = random_weights(architectures.sd15(2, width=8, every=20), 1)
    for name in "ab":
        write_safetensors(str(path / f"{name}.safetensors"), layers)
    return path


@pytest.mark.parametrize("kills", [2, 3])
def test_a_file_that_kills_three_loaders_is_failed(folder: Path, tmp_path: Path, kills: int) -> None:
    """Twice may be bad luck, three times is the file; the others are told apart all the same."""
    state = tmp_path / "state"
    embedded = Embedded(folder, state, loaders=1)
    kill_readers(embedded, folder / "poison.safetensors", kills)
    assert embedded.finish() == 0
    files = view(state, "processed")["files"]
    small = frozenset(str(folder / f"{name}.safetensors") for name in "ab")
    big = frozenset(str(folder / f"{name}.safetensors") for name in ("poison", "twin"))
    if kills == 2:
        assert duplicate_sets(state) == {small, big}
        return
    assert duplicate_sets(state) == {small}
    assert files[str(folder / "poison.safetensors")]["status"] == "failed"
    assert "killed 3 loader processes" in files[str(folder / "poison.safetensors")]["error"]
    assert files[str(folder / "twin.safetensors")]["status"] == "unique"
    with sqlite3.connect(state / CATALOGUE) as db:
        # As it stands where the loaders died on the header, before anything was learnt of the file.
        db.execute("UPDATE files SET read_ns = 0 WHERE deaths > 0")
    db.close()
    assert scan(folder, state).report["bytes_read"] == 0
    assert view(state, "processed")["files"][str(folder / "poison.safetensors")]["status"] == "failed"
