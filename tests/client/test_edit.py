"""`loractl edit`: what it prints, refuses and takes back, with no daemon at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from loracore.tensorfile import open_container
from tests.builders.architectures import sd15
from tests.builders.weights import random_weights
from tests.builders.write import save_checkpoint
from tests.integration.scanning import loractl
from tests.toolkit.jobs.edit.files import lora


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def told(state: Path, *arguments: object, code: int = 0) -> Any:
    ended = loractl("edit", *arguments, environment={"XDG_STATE_HOME": str(state)})
    assert ended.returncode == code, ended.stderr
    return ended


def test_a_plan_is_applied_and_undone_on_the_command_line(tmp_path: Path, state: Path) -> None:
    """A table for people, fields for programs; history names the edit and what became of it."""
    path = lora(tmp_path / "a.safetensors")
    before = path.read_bytes()
    options = ("--title", "Ink", "--trigger", "a", "--trigger", "b", "--set", "note=x=y", "--strip", "ss_d*")
    ended = told(state, path, *options)
    assert "modelspec.title" in ended.stdout
    assert "--apply" in ended.stderr
    assert path.read_bytes() == before
    found = json.loads(told(state, path, *options, "--apply", "--json").stdout)
    assert (found["files"][0]["path"], found["files"][0]["state"]) == (str(path), "done")
    metadata = open_container(str(path)).metadata
    assert (metadata["note"], metadata["modelspec.trigger_phrase"]) == ("x=y", "a, b")
    assert "done" in told(state, "--history").stdout
    (past,) = json.loads(told(state, "--history", "--json").stdout)["history"]
    assert (past["id"], past["path"]) == (found["id"], str(path))
    assert "1 file undone" in told(state, "--undo", found["id"]).stderr
    assert path.read_bytes() == before


def test_what_is_refused_is_named(tmp_path: Path, state: Path) -> None:
    """With 2, a line for each and the remedy; the others are edited all the same."""
    layers = random_weights(sd15(2, width=16, every=6), 1)
    bad, good = Path(save_checkpoint(str(tmp_path / "b.pt"), layers)), lora(tmp_path / "a.safetensors")
    ended = told(state, bad, good, "--title", "x", "--apply", code=2)
    assert "loractl convert" in ended.stdout
    assert "1 file edited, 1 file refused." in ended.stderr
    assert open_container(str(good)).metadata["modelspec.title"] == "x"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["FILE"], "nothing is to be changed"),
        (["--title", "x"], "name a file"),
        (["FILE", "--set", "novalue"], "KEY=VALUE"),
        (["FILE", "--set", "a=1", "--set", "a=2"], "set twice"),
        (["--strip", "FILE"], "--strip behind the files"),
        (["FILE", "--undo", "1", "--title", "x"], "without the options"),
        (["FILE", "--history"], "stands alone"),
        (["--undo", "7"], "no edit 7"),
        (["--undo", "0"], "--undo"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path: Path, state: Path, arguments: list[str], word: str) -> None:
    path = lora(tmp_path / "a.safetensors")
    before = path.read_bytes()
    ended = told(state, *(str(path) if each == "FILE" else each for each in arguments), code=2)
    assert word in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""
    assert path.read_bytes() == before


def test_strip_takes_a_pattern_or_none(tmp_path: Path, state: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    told(state, path, "--strip=ss_tag*", "--apply")
    assert "ss_tag_frequency" not in open_container(str(path)).metadata
    told(state, path, "--strip", "--apply")
    assert set(open_container(str(path)).metadata) == {"ss_network_dim", "ss_network_alpha", "format"}


def test_the_same_in_python(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lorakit

    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    path = lora(tmp_path / "a.safetensors")
    found = lorakit.edit(path, title="Ink", unset="ss_dataset_dirs", apply=True)
    assert found["files"][0]["entries"] == 2
    assert lorakit.edit(undo=found["id"])["files"][0]["state"] == "undone"
    assert lorakit.edit(history=True)["history"][0]["path"] == os.fspath(path)
