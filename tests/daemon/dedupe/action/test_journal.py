"""The journal is the only record of what is gone: it is never replaced, and never believed when it is damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from loracore.errors import StateError, StateLocked
from lorad.dedupe.action.actor import Actor
from lorad.dedupe.action.journal import Journal
from lorad.dedupe.action.journal_file import JOURNAL, MARKER
from lorad.dedupe.action.order import Refused
from lorad.dedupe.history import ActionHistory
from tests.daemon.dedupe.world import World, act, make_world


@pytest.fixture
def acted(tmp_path: Path) -> World:
    """A library in which a file is in quarantine."""
    world = make_world(str(tmp_path))
    world.apply("quarantine")
    return world


def test_history_is_ascending_and_complete(tmp_path: Path) -> None:
    """Every action that was begun is in it, oldest first, also for a process that does not act."""
    world = make_world(str(tmp_path))
    for action in ("quarantine", "delete", "hardlink"):
        world.undo(world.apply(action).id)
    history = world.history()
    assert [each.action for each in history] == ["quarantine", "delete", "hardlink"]
    assert [each.id for each in history] == [1, 2, 3]
    assert sorted(each.time_ns for each in history) == [each.time_ns for each in history]
    assert world.history(after=1, limit=1) == history[1:2]
    reader = Journal(world.state, writing=False)
    assert [each.result() for each in reader.history()] == history
    reader.close()


def test_savings_count_what_is_done(tmp_path: Path) -> None:
    """What is put aside is still taken; what was freed is saved, and what was undone saves nothing."""
    world = make_world(str(tmp_path))
    size = os.path.getsize(world.gone)
    number = world.apply("hardlink").id
    assert (world.savings().actions, world.savings().saved, world.savings().held) == (1, 0, size)
    world.free(number)
    assert (world.savings().actions, world.savings().saved, world.savings().held) == (1, size, 0)
    world.undo(number)
    assert (world.savings().saved, world.savings().held) == (0, 0)
    world.apply("quarantine")
    assert (world.savings().saved, world.savings().held) == (0, size)


def test_one_actor_at_a_time(acted: World) -> None:
    """A second one is refused with a word while the first one is open."""
    with acted.actor(), pytest.raises(StateLocked, match="another lorad"):
        acted.actor()
    acted.actor().close()


def test_a_newer_journal_is_refused(acted: World) -> None:
    """An older lorad does not touch what a later one wrote."""
    with sqlite3.connect(os.path.join(acted.state, JOURNAL)) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StateError, match="a later lorad wrote it"):
        acted.actor()


def _overwrite(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(b"not a database at all, but something else")


def _tear(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096))


@pytest.mark.parametrize("damage", [_overwrite, _tear, os.unlink, lambda path: os.truncate(path, 0)])
def test_a_damaged_journal_is_not_replaced(acted: World, damage: Callable[[str], None]) -> None:
    """Damaged, empty or missing: it is refused with the remedy, and a backup in its place works again."""
    path = os.path.join(acted.state, JOURNAL)
    shutil.copy(path, path + ".backup")
    damage(path)
    there = os.path.exists(path)
    content = Path(path).read_bytes() if there else b""
    for _ in range(2):
        with pytest.raises(StateError, match=r"backup"):
            acted.actor()
    assert os.path.exists(path) == there
    assert (Path(path).read_bytes() if there else b"") == content
    os.replace(path + ".backup", path)
    assert acted.undo(1).state == "undone"


def test_a_state_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """It is refused with its name and the remedy."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match="--state-dir"):
        Actor(str(tmp_path / "file" / "state"))


def test_what_is_undone_is_nothing_to_do(acted: World) -> None:
    """What never was is passed over; the service says that by its number."""
    acted.undo(1)
    assert acted.undo(1).state == "nothing"
    with acted.actor() as actor:
        assert actor.undo([7]) == []


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + bytes(80)])
def test_a_journal_cut_short_while_it_was_made_is_made_anew(tmp_path: Path, content: bytes) -> None:
    """Nothing was ever written down in it: it stands in the way of no question and of no action."""
    world = make_world(str(tmp_path))
    os.makedirs(world.state)
    path = Path(world.state, JOURNAL)
    if content:
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA page_size = 4096")
            db.execute("CREATE TABLE gone (x)")
            db.execute("DROP TABLE gone")
    else:
        path.write_bytes(content)
    assert ActionHistory(world.state).history(0, 10) == []
    assert world.apply("delete").state == "hidden"


@pytest.mark.parametrize("action", ["hardlink", "symlink", "delete", "quarantine"])
def test_a_full_disk_below_the_journal(disk: Callable[[str], str], tmp_path: Path, action: str) -> None:
    """What cannot be written down is not done: every name and byte is as before, also after repair."""
    state = disk("tmpfs")
    world = make_world(str(tmp_path), state=state)
    before = world.look()
    world.undo(world.apply(action).id)
    with open(os.path.join(state, "filler"), "wb") as file:
        room = os.statvfs(state)
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)
    with world.actor() as actor:
        with pytest.raises((Refused, StateError), match=r"full|no space"):
            act(actor, world.order(action))
        assert world.look() == before
    os.unlink(os.path.join(state, "filler"))
    with world.actor() as actor:
        actor.repair()
    assert world.look() == before
    world.undo(world.apply(action).id)
    assert world.look() == before


def test_a_journal_that_is_gone_is_missed(tmp_path: Path) -> None:
    """Also where all that it knows of lies elsewhere, as links do: nothing is made anew in silence."""
    world = make_world(str(tmp_path))
    world.apply("hardlink")
    path = os.path.join(world.state, JOURNAL)
    os.rename(path, path + ".backup")
    for writing in (True, False):
        with pytest.raises(StateError, match=f"backup.*{MARKER}"):
            Journal(world.state, writing=writing)
    assert not os.path.exists(path)
    with pytest.raises(StateError, match="backup"):
        ActionHistory(world.state).history(0, 10)
    os.rename(path + ".backup", path)
    assert world.undo(1).state == "undone"


def test_another_journal_in_its_place_is_refused(tmp_path: Path) -> None:
    """Its names are not those that this one has given; the marker's removal says that one knows."""
    world = make_world(str(tmp_path))
    world.apply("delete")
    Journal(str(tmp_path)).close()
    os.replace(tmp_path / JOURNAL, os.path.join(world.state, JOURNAL))
    with pytest.raises(StateError, match="another journal"):
        world.actor()
    with pytest.raises(StateError, match="another journal"):
        Journal(world.state, writing=False)
    os.unlink(os.path.join(world.state, MARKER))
    world.actor().close()
    assert os.path.exists(os.path.join(world.state, MARKER))
