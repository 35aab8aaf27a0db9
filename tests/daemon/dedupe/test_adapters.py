"""SPEC section 5, adapter folder: a plan says which go as a whole, and what of one cannot go, by its name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from loracore import config
from loracore.control import Planned
from lorad.control.pages import planned_pages
from lorad.control.queries import Queries
from lorad.dedupe.action.registry import ACTIONS
from lorad.dedupe.plan import Plan
from lorad.dedupe.planner import adapter_folders, look_at_folders
from tests.builders.models import llama, saved
from tests.builders.real import by_peft
from tests.integration.scanning import scan

WEIGHTS = "adapter_model.safetensors"


def planned(root: Path, action: str, *, newcomers: list[Path] | None = None, **dedupe: object) -> Plan:
    """What is made of all under a root; of these newcomers alone where any are given."""
    state = root.parent / "state"
    scan(root, state)
    queries = Queries(str(state))
    settings = config.Dedupe(action=action, **dedupe)  # type: ignore[arg-type]
    queries.planner.use(config.Config(watch=config.Watch(roots=(str(root),)), dedupe=settings))
    made = queries.plan() if newcomers is None else queries.plan_for(list(map(os.fsencode, newcomers)))
    queries.close()
    assert isinstance(made, Plan), made
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An adapter as PEFT writes it, twice."""
    path = tmp_path / "loras"
    by_peft(str(path / "a"))
    (path / "a/README.md").write_text("# mine\n")
    shutil.copytree(path / "a", path / "b")
    return path


def folders(made: Plan) -> list[str]:
    return [os.path.basename(os.fsdecode(step.folder)) for step in made.steps]


def reasons(made: Plan) -> dict[str, str]:
    return {os.path.basename(os.path.dirname(os.fsdecode(row.path))): row.reason for row in made.skipped}


@pytest.mark.parametrize("action", [name for name, each in ACTIONS.items() if each.goes_away])
def test_two_equal_folders_become_one(root: Path, action: str) -> None:
    """The step is of the folder, named by its weight file; by itself just where all of it is new."""
    made = planned(root, action)
    assert [(step.path, step.kept, step.folder) for step in made.steps] == [
        (os.fsencode(root / "b" / WEIGHTS), os.fsencode(root / "a" / WEIGHTS), os.fsencode(root / "b"))
    ]
    assert made.bytes == (root / "b" / WEIGHTS).stat().st_size
    shown = msgspec.msgpack.decode(planned_pages(made, 1, True, "")[""], type=Planned)
    assert [(step.path, step.bytes) for step in shown.steps] == [(os.fsencode(root / "b"), made.bytes)]
    assert folders(planned(root, action, newcomers=[root / "b" / WEIGHTS])) == ["b"]
    assert folders(planned(root, action, newcomers=[root / "a" / WEIGHTS])) == []


def test_what_is_not_the_same_in_two_folders_is_named(root: Path) -> None:
    """Other text, a name more, a link, a folder that is watched itself."""
    readme = root / "b/README.md"
    readme.write_text("# yours\n")
    assert reasons(planned(root, "delete"))["b"] == "part of a folder: README.md has other bytes"
    readme.unlink()
    assert reasons(planned(root, "delete"))["b"] == "part of a folder: README.md is in the kept folder alone"
    readme.symlink_to(root / "a/README.md")
    assert "README.md is not a regular file in both" in reasons(planned(root, "delete"))["b"]
    assert folders(planned(root, "symlink")) == [""]


def test_a_file_outside_of_a_folder_keeps_nothing_of_one(root: Path) -> None:
    """Nor does another program find what it needs where the weights alone are."""
    shutil.rmtree(root / "b")
    shutil.copyfile(root / "a" / WEIGHTS, root / "style.safetensors")
    shutil.copyfile(root / "a/adapter_config.json", root / "adapter_config.json")
    made = planned(root, "delete", keep=("shortest-path",))
    assert reasons(made) == {"a": f"part of a folder: {root}/style.safetensors is not in a folder like it"}
    assert made.steps == []


def test_a_checkpoint_below_goes_with_its_run(root: Path) -> None:
    """One step for all; where a file below is kept, the whole stays."""
    for name in "ab":
        by_peft(str(root / name / "checkpoint-5"), seed=1)
    made = planned(root, "delete")
    assert folders(made) == ["b"]
    assert made.bytes == 2 * (root / "b" / WEIGHTS).stat().st_size
    below = root / "a/checkpoint-5" / WEIGHTS
    os.utime(below, (2e9, 2e9))
    made = planned(root, "delete")
    assert folders(made) == ["checkpoint-5"]
    assert reasons(made)["b"].endswith(f"b/checkpoint-5/{WEIGHTS} stays")


def test_all_shards_go_or_none(tmp_path: Path) -> None:
    """With the index beside them they are one unit, of which no part is moved alone."""
    root = tmp_path / "loras"
    saved(llama(), root / "a", shard="40KB")
    shutil.copytree(root / "a", root / "b")
    weights = sorted((root / "b").glob("*.safetensors"))
    assert len(weights) > 1
    made = planned(root, "quarantine")
    assert folders(made) == ["b"]
    assert made.bytes == sum(path.stat().st_size for path in weights)
    assert folders(planned(root, "quarantine", newcomers=weights)) == ["b"]
    made = planned(root, "quarantine", newcomers=weights[1:])
    assert made.steps == []
    assert {row.reason for row in made.skipped if row.path == os.fsencode(weights[1])} == {
        f"part of a folder: {weights[0]} stays"
    }


@pytest.mark.parametrize("missing", ["00001", "index"])
def test_a_part_does_not_go_while_others_are_still_copied(tmp_path: Path, missing: str) -> None:
    """Nor where the index comes last; other files of such a folder go as ever."""
    root = tmp_path / "loras"
    saved(llama(), root / "a", shard="40KB")
    shutil.copytree(root / "a", root / "b")
    for path in (root / "b").glob(f"*{missing}*"):
        path.unlink()
    for name in ("style.safetensors", "style (1).safetensors"):
        shutil.copyfile(next((root / "a").glob("*-00002-*")), root / "b" / name)
    made = planned(root, "delete", keep=("path-prefix:" + str(root / "b/style.safetensors"), "oldest"))
    assert {os.path.basename(step.path) for step in made.steps} == {b"style (1).safetensors"}
    assert all(row.reason.startswith("part of a folder") for row in made.skipped)


def test_a_root_is_no_folder_that_goes(root: Path) -> None:
    """What is watched stays, also where it is an adapter folder itself."""
    found = look_at_folders([], [])
    assert found.difference(os.fsencode(root / "b"), os.fsencode(root / "a")) == ""
    found = look_at_folders([], [os.fsencode(root / "b")])
    assert found.difference(os.fsencode(root / "b"), os.fsencode(root / "a")) == "it is a watched folder itself"
    assert "cannot be read" in found.difference(os.fsencode(root / "a"), os.fsencode(root / "none"))


def test_folders_are_looked_at_for_names_that_parts_have(tmp_path: Path) -> None:
    """A flat folder of many LoRAs is not listed, nor is one missed that cannot be."""
    for name in ("x.safetensors", WEIGHTS):
        (tmp_path / name).touch()
    assert adapter_folders([os.fsencode(tmp_path / "x.safetensors")]) == {}
    assert adapter_folders([os.fsencode(tmp_path / WEIGHTS)]) == {}
    (tmp_path / "x.safetensors").unlink()
    folder = os.fsencode(tmp_path)
    assert adapter_folders([os.fsencode(tmp_path / WEIGHTS), b"/none/" + WEIGHTS.encode()]) == {
        folder: {os.path.join(folder, WEIGHTS.encode())}
    }
