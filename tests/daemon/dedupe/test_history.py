"""What is said to be undoable is looked at, not counted."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from loracore.paths import CATALOGUE
from lorad.catalog.schema import migrate
from lorad.checks.doctor import undoable
from lorad.dedupe.action.order import FreeOrder
from lorad.dedupe.history import look
from tests.daemon.dedupe.world import World, make_world, side


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two files that are the same, and an empty catalogue."""
    made = make_world(str(tmp_path))
    os.mkdir(made.state)
    with closing(sqlite3.connect(os.path.join(made.state, CATALOGUE), isolation_level=None)) as db:
        migrate(db)
    return made


def lacks(world: World) -> str:
    """What the only action lacks; the doctor says the same."""
    (looked,) = look(world.state)
    finding = undoable(world.state)
    assert (finding.level == "problem") == bool(looked.lacks)
    assert looked.lacks in finding.text
    return looked.lacks


def aside(world: World, action: str) -> bytes:
    """Act; where the file is that was put aside."""
    result = world.apply(action)
    assert result.state in ("hidden", "quarantined")
    return result.aside


@pytest.mark.parametrize("action", ["delete", "symlink", "hardlink", "quarantine"])
def test_what_is_put_aside_is_looked_at(world: World, action: str) -> None:
    """It is to be there, and to be that file."""
    path = aside(world, action)
    assert lacks(world) == ""
    os.rename(path, path + b".elsewhere")
    assert "not there any more" in lacks(world)
    shutil.copy(world.kept, path)
    assert "changed or replaced" in lacks(world)
    os.rename(path + b".elsewhere", path)
    assert lacks(world) == ""
    os.utime(path, (0, 0))
    assert "changed or replaced" in lacks(world)


def test_what_is_known_as_lost_is_not_asked_for_again(world: World) -> None:
    """The history tells of it."""
    path = aside(world, "delete")
    os.unlink(path)
    assert "not there any more" in lacks(world)
    with world.actor() as actor:
        actor.note(1, "lost", "it was removed")
    assert not list(look(world.state))


def test_a_disk_that_is_away_is_called_so(world: World) -> None:
    folder = os.path.dirname(aside(world, "delete"))
    os.rename(folder, world.root + b"/elsewhere")
    assert "mount its disk" in lacks(world)


def test_what_does_not_answer_is_not_looked_at(world: World) -> None:
    aside(world, "delete")
    (looked,) = look(world.state, [world.root])
    assert "does not answer" in looked.lacks


def test_what_was_freed_needs_a_file_of_its_weights(world: World) -> None:
    """Any that the catalogue has."""
    number = world.apply("delete").id
    with world.actor() as actor:
        (freed,) = actor.free([FreeOrder(number, (side(world.kept, world.root),))])
    assert freed.state == "freed"
    assert lacks(world) == ""
    os.rename(world.kept, world.kept + b".moved")
    assert "no file is known" in lacks(world)


def test_nothing_was_done(world: World) -> None:
    """Then nothing is said to be undoable."""
    assert list(look(world.state)) == []
    assert undoable(world.state).level == "ok"
    world.undo(world.apply("delete").id)
    assert list(look(world.state)) == []
