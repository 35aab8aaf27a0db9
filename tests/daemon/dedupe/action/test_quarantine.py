"""Quarantine: a folder that only lorad's user may look into, and what comes back from there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lorad.dedupe.action.order import Refused
from tests.daemon.dedupe.world import GONE, look, make_world, read


def test_quarantine_that_others_may_change_is_refused(tmp_path: Path) -> None:
    """Nothing is put where somebody else could change or take it."""
    world = make_world(str(tmp_path))
    folder = os.path.join(world.state, "quarantine")
    os.makedirs(folder)
    os.chmod(folder, 0o777)
    before = world.look()
    with pytest.raises(Refused, match="others may change it"):
        world.apply("quarantine")
    assert world.look() == before
    os.rmdir(folder)
    os.symlink("elsewhere", folder)
    with pytest.raises(Refused, match="cannot be used for quarantine"):
        world.apply("quarantine")
    assert world.look() == before


def test_a_missing_folder_is_made_anew(tmp_path: Path) -> None:
    """What returns from quarantine finds its folder, or makes it, and never through a link."""
    world = make_world(str(tmp_path), sidecars=False)
    before = look(world.gone)
    folder = os.path.dirname(world.gone)
    for back in (world.undo, world.give_back):
        number = world.apply("quarantine").id
        shutil.rmtree(os.path.dirname(folder))
        assert back(number).state in ("undone", "given_back")
        assert look(world.gone) == before
    number = world.apply("quarantine").id
    shutil.rmtree(folder)
    os.rmdir(os.path.dirname(folder))
    os.mkdir(tmp_path / "outside")
    os.symlink(tmp_path / "outside", os.path.dirname(folder))
    with pytest.raises(Refused, match="is a symbolic link now"):
        world.undo(number)
    assert os.listdir(tmp_path / "outside") == []
    os.unlink(os.path.dirname(folder))
    world.undo(number)
    assert look(world.gone) == before


def test_it_is_kept_until_it_is_freed_by_its_number(tmp_path: Path) -> None:
    """Then it can be made anew, as what was deleted can."""
    world = make_world(str(tmp_path))
    before = world.look()
    result = world.apply("quarantine")
    assert read(result.aside) == before[GONE].content
    assert os.path.basename(result.aside).startswith(b".gone.safetensors.aside-")
    with open(world.kept, "ab") as file:
        file.write(b"x")
    waits = world.free(result.id)
    assert waits.state == "quarantined"
    assert waits.text
    os.truncate(world.kept, len(before[GONE].content))
    os.utime(world.kept, ns=before[b"models/kept.safetensors"].times)
    assert world.free(result.id).state == "freed"
    assert not world.leftovers()
    world.undo(result.id)
    assert world.look() == before


def test_what_was_changed_in_quarantine_comes_back_as_it_is(tmp_path: Path) -> None:
    """It is the owner's file with his change: nothing of it is lost."""
    world = make_world(str(tmp_path))
    result = world.apply("quarantine")
    with open(result.aside, "r+b") as file:
        file.write(b"x")
    changed = read(result.aside)
    assert world.free(result.id).state == "quarantined"
    assert world.undo(result.id).state == "undone"
    assert read(world.gone) == changed
