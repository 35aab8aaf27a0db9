"""Files that take an hour to read hold up none that take a second."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from loracore.control import DuplicateFound
from loractl import Client
from tests.builders import architectures
from tests.builders.architectures import LayerSpec
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors, write_sparse
from tests.integration.running import Running

SPECS = architectures.sd15(4, width=4, every=12)
TERABYTE = 1 << 40


def giant(path: Path) -> Path:
    """A terabyte of zeros, which is a hole."""
    write_sparse(str(path), [LayerSpec("w", "U8", (TERABYTE,))])
    return path


def is_read(client: Client) -> bool:
    """Whether a loader is at the giants: each of them has been asked for all of its bytes."""
    status = client.status()
    return status.state == "reading" and status.files.get("grouped") == 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
def daemon(tmp_path: Path, root: Path) -> Iterator[Running]:
    """One that has a single loader, which is at the first of two giants."""
    with Running(tmp_path, [root], tables="[pipeline]\nloaders = 1\n") as daemon, daemon.client() as client:
        giant(root / "one.safetensors")
        giant(root / "two.safetensors")
        while not is_read(client):
            pass
        yield daemon


def test_a_pair_is_found_while_a_giant_is_read(daemon: Running, root: Path) -> None:
    """A newcomer and its twin are duplicates in a moment, also where the only loader has years to go."""
    with daemon.client() as client, daemon.client() as listener:
        events = listener.events()
        for name in "ab":
            write_safetensors(str(root / f"{name}.safetensors"), random_weights(SPECS, 1))
        found = next(event for event in events if isinstance(event.event, DuplicateFound)).event
        assert isinstance(found, DuplicateFound)
        assert {found.path, *found.others} == {os.fsencode(root / f"{name}.safetensors") for name in "ab"}
        while not is_read(client):
            pass


def test_a_giant_that_is_removed_is_read_no_more(daemon: Running, root: Path) -> None:
    """Nor is the other one, which nothing is like any more, until one comes back."""
    with daemon.client() as client:
        (root / "one.safetensors").unlink()
        daemon.settle()
        assert client.status().files == {"unique": 1}
        giant(root / "three.safetensors")
        while not is_read(client):
            pass
        for name in ("two", "three"):
            (root / f"{name}.safetensors").unlink()
        daemon.settle()
        assert client.status().files_total == 0


def test_a_giant_that_changes_is_read_no_more(daemon: Running, root: Path) -> None:
    """What it has become is read instead."""
    path = root / "one.safetensors"
    path.unlink()
    write_safetensors(str(path), random_weights(SPECS, 2))
    daemon.settle()
    with daemon.client() as client:
        assert client.status().files == {"unique": 2}


def test_it_ends_and_takes_over_other_roots_while_a_giant_is_read(
    daemon: Running, root: Path, tmp_path: Path
) -> None:
    """SIGTERM and SIGHUP do not wait for a file to be read."""
    other = tmp_path / "other"
    other.mkdir()
    write_safetensors(str(other / "a.safetensors"), random_weights(SPECS, 1))
    daemon.configure([other])
    os.kill(daemon.pid, 1)
    with daemon.client() as client:
        while client.status().files_total != 1:
            pass
    daemon.configure([other, root])
    os.kill(daemon.pid, 1)
    with daemon.client() as client:
        while not is_read(client):
            pass
    assert daemon.stop() == 0
