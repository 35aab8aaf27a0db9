"""Files of the state folder whose making was cut short, as a power cut leaves them, are made anew."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from loracore.errors import LoraError
from loracore.paths import CATALOGUE
from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.running import Running
from tests.integration.scanning import VIEWS, duplicate_sets, scan

SPECS = architectures.sd15(4, width=4, every=12)
REMAINS = {"empty": b"", "zeros": bytes(8192), "cut": b"SQLite format 3\0\x10", "nested": b"[" * 100_000}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    for name in "ab":
        write_safetensors(str(path / f"{name}.safetensors"), random_weights(SPECS, 1))
    return path


def twins(root: Path) -> set[frozenset[str]]:
    return {frozenset(map(str, root.iterdir()))}


@pytest.mark.parametrize("what", ["empty", "zeros", "cut"])
def test_a_catalogue(tmp_path: Path, root: Path, what: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / CATALOGUE).write_bytes(REMAINS[what])
    assert scan(root, state).code == 0
    assert duplicate_sets(state) == twins(root)


def test_a_catalogue_without_tables(tmp_path: Path, root: Path) -> None:
    """SQLite had made the file, and lorad had not begun."""
    state = tmp_path / "state"
    state.mkdir()
    with closing(sqlite3.connect(state / CATALOGUE)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE x (y)")
        db.execute("DROP TABLE x")
    assert scan(root, state).code == 0
    assert duplicate_sets(state) == twins(root)


@pytest.mark.parametrize("what", REMAINS)
def test_all_else(tmp_path: Path, root: Path, what: str) -> None:
    """Views, their temporary files, what was mounted where, locks."""
    with Running(tmp_path, [root]) as daemon:
        daemon.settle()
    for name in [*(f"{view}.json" for view in VIEWS), "statistics.json.new", "run/mounts.json", "lock"]:
        (daemon.state / name).write_bytes(REMAINS[what])
    with Running(tmp_path, [root]) as daemon:
        daemon.settle()
        assert duplicate_sets(daemon.state) == twins(root)
        with daemon.client() as client:
            assert client.audit().differences == []


def test_a_catalogue_that_holds_something_is_never_removed(tmp_path: Path, root: Path) -> None:
    """One that is damaged is named, with the remedy, and left to its owner."""
    state = tmp_path / "state"
    scan(root, state)
    content = (state / CATALOGUE).read_bytes()
    damaged = content[:100] + b"\xff" * (len(content) - 100)
    (state / CATALOGUE).write_bytes(damaged)
    ended = scan(root, state)
    assert ended.code == 5
    assert "move it away to start afresh" in ended.stderr
    assert (state / CATALOGUE).read_bytes() == damaged


@pytest.mark.parametrize("name", [CATALOGUE, "journal.sqlite", "journal.token"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, root: Path, name: str) -> None:
    """Requests are answered, and the doctor names it."""
    (tmp_path / "state").mkdir()
    os.mkfifo(tmp_path / "state" / name)
    with Running(tmp_path, [root]) as daemon, daemon.client() as client:
        findings = [one for one in client.doctor().findings if one.level == "problem"]
        assert any("no regular file" in f"{one.text} {one.remedy}" or name in one.name for one in findings), (
            findings
        )
        assert all(one.name != "journal" for one in findings) or name != CATALOGUE
        with suppress(LoraError):
            list(client.duplicates())
