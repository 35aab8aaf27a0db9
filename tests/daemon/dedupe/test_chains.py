"""Actions that stand on what earlier ones left, and their undo."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lorad.dedupe.orders import Order, Refused, Result

from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.daemon.dedupe.world import GONE, SPECS, World, dies_at, dress, make_world, side

#: Later actions on the names of a file that another name was linked to before.
LATER = ("hardlink", "symlink", "delete", "quarantine")


def third(world: World) -> bytes:
    """One more copy of the kept file, with attributes of its own."""
    path = os.path.join(world.root, b"third.safetensors")
    shutil.copyfile(world.kept, path)
    dress(path, b"third", 1_400_000_000_111_111_111)
    return path


def act(world: World, action: str, kept: bytes, gone: bytes, level: str = "file") -> Result:
    with world.actor() as actor:
        return actor.apply(Order(action, level, side(kept, world.root), side(gone, world.root)))


def undo_all(world: World) -> None:
    with world.actor() as actor:
        for number in reversed([each.id for each in world.history() if each.state == "done"]):
            actor.undo(number)


@pytest.mark.parametrize("later", LATER)
def test_what_went_with_a_hard_link_comes_back_with_its_own_attributes(tmp_path: Path, later: str) -> None:
    """A name is linked to a file, all whose names go for another one: undo brings back every attribute."""
    world = make_world(str(tmp_path))
    other = third(world)
    before = world.look()
    # Open, so that no new file is given its inode's number by chance.
    with open(world.kept, "rb"):
        act(world, "hardlink", world.kept, world.gone)
        for name in (world.kept, world.gone):
            act(world, later, other, name)
        undo_all(world)
    assert world.look() == before
    assert world.savings().actions == 0


def test_links_of_links_are_taken_apart_to_the_first(tmp_path: Path) -> None:
    """Whatever was linked again and again, each undo finds what the one before it put back."""
    world = make_world(str(tmp_path))
    second, last = third(world), os.path.join(world.root, b"last.safetensors")
    shutil.copyfile(world.kept, last)
    dress(last, b"last", 1_300_000_000_222_222_222)
    before = world.look()
    act(world, "hardlink", world.kept, world.gone)
    for name in (world.kept, world.gone):
        act(world, "hardlink", second, name)
    for name in (world.kept, second, world.gone):
        act(world, "hardlink", last, name)
    undo_all(world)
    assert world.look() == before


def test_an_undo_on_what_an_undo_left_may_be_killed(tmp_path: Path) -> None:
    """At any step: afterwards it is undone, or can be."""
    for number in range(12):
        world = make_world(str(tmp_path / str(number)))
        before = world.look()
        other = third(world)
        act(world, "hardlink", world.kept, world.gone)
        act(world, "delete", other, world.gone)
        world.undo(2)
        dies_at(world, number, lambda actor: actor.undo(1))
        with world.actor() as actor:
            (result,) = actor.repair() or world.history()[:1]
            if result.state == "done":
                actor.undo(1)
        assert world.look()[GONE] == before[GONE]


def test_another_file_in_the_place_of_a_link_is_not_taken_for_it(tmp_path: Path) -> None:
    """Also where something was brought back there once."""
    world = make_world(str(tmp_path))
    other = third(world)
    act(world, "hardlink", world.kept, world.gone)
    act(world, "delete", other, world.gone)
    world.undo(2)
    shutil.copyfile(other, world.gone + b".new")
    os.rename(world.gone + b".new", world.gone)
    before = world.look()
    with pytest.raises(Refused, match="another file stands there now"):
        world.undo(1)
    assert world.look() == before


def edited(world: World) -> bytes:
    """One more file of the same layers, with another header."""
    path = os.path.join(world.root, b"edited.safetensors")
    write_safetensors(os.fsdecode(path), random_weights(SPECS, 1), metadata={"title": "edited"})
    dress(path, b"edited", 1_200_000_000_333_333_333)
    return path


AWAY = ("symlink", "delete", "quarantine")


@pytest.mark.parametrize("level", ["file", "tensors"])
@pytest.mark.parametrize("first", ["symlink", "delete"])
@pytest.mark.parametrize("later", AWAY)
def test_what_a_file_would_be_made_from_does_not_go_for_other_bytes(
    tmp_path: Path, level: str, first: str, later: str
) -> None:
    """A recipe, or an undo, needs the kept file's bytes: it stays until that action is undone."""
    world = make_world(str(tmp_path), level=level)
    other = edited(world)
    start = world.look()
    assert act(world, first, world.kept, world.gone, level).action == first
    before = world.look()
    with pytest.raises(Refused, match="undo that first"):
        act(world, later, other, world.kept, "tensors")
    assert world.look() == before
    undo_all(world)
    assert world.look() == start
    assert act(world, later, other, world.kept, "tensors").state == "done"


@pytest.mark.parametrize("level", ["file", "tensors"])
@pytest.mark.parametrize("later", AWAY)
def test_a_kept_file_may_go_for_one_of_the_same_bytes(tmp_path: Path, level: str, later: str) -> None:
    """Undo makes the first file from the one that is kept in the end, in any order."""
    world = make_world(str(tmp_path), level=level)
    second = third(world)
    last = os.path.join(world.root, b"last.safetensors")
    shutil.copyfile(world.kept, last)
    dress(last, b"last", 1_300_000_000_222_222_222)
    other = edited(world)
    start = world.look()
    assert act(world, "delete", world.kept, world.gone, level).action == "delete"
    act(world, later, second, world.kept)
    end = second
    if later != "symlink":
        # What a link leads to does not go.
        act(world, later, last, second)
        end = last
    with pytest.raises(Refused, match="undo that first"):
        act(world, "quarantine", other, end, "tensors")
    world.undo(1)
    assert world.look()[GONE] == start[GONE]
    undo_all(world)
    assert world.look() == start


def test_a_kept_file_that_was_changed_on_the_way_is_told(tmp_path: Path) -> None:
    """What stands at the end of the way is verified as ever, and the refusal changes nothing."""
    world = make_world(str(tmp_path))
    second = third(world)
    act(world, "delete", world.kept, world.gone)
    act(world, "delete", second, world.kept)
    with open(second, "r+b") as file:
        file.write(b"x")
    before = world.look()
    with pytest.raises(Refused, match="was changed since"):
        world.undo(1)
    os.unlink(second)
    before.pop(b"third.safetensors")
    with pytest.raises(Refused, match=r"kept.safetensors: it is not there any more; .*undo first"):
        world.undo(1)
    assert world.look() == before


def test_of_two_links_to_one_file_the_later_is_undone_first(tmp_path: Path) -> None:
    """A name was linked to a file, to another and to the first again: either may have made the link."""
    world = make_world(str(tmp_path))
    other = third(world)
    before = world.look()
    first = act(world, "hardlink", world.kept, world.gone)
    act(world, "hardlink", other, world.gone)
    last = act(world, "hardlink", world.kept, world.gone)
    with pytest.raises(Refused, match=rf"action {last.id} .*undo that first"):
        world.undo(first.id)
    undo_all(world)
    assert world.look() == before


@contextlib.contextmanager
def given_next(folder: bytes, number: int) -> Iterator[None]:
    """Meanwhile the next new file in the folder has the inode of this number, which is free; else skips.

    File systems that give numbers again take the lowest that is free near the folder (ext4).
    """
    held: list[bytes] = []
    try:
        for count in range(2000):
            name = os.path.join(folder, b"filler-%d" % count)
            with open(name, "wb") as file:
                held.append(name)
                if os.fstat(file.fileno()).st_ino == number:
                    break
        else:
            pytest.skip("this file system does not give the number of a removed inode again")
        os.unlink(held.pop())
        yield
    finally:
        for name in held:
            os.unlink(name)


def test_a_number_that_is_given_again_is_not_taken_for_the_link(tmp_path: Path) -> None:
    """A name was linked twice, the second time to an inode with the number of the first: the last goes first."""
    world = make_world(str(tmp_path))
    other = third(world)
    before = world.look()
    number = os.stat(world.kept).st_ino
    act(world, "hardlink", world.kept, world.gone)
    moved = act(world, "hardlink", other, world.kept)
    act(world, "hardlink", other, world.gone)
    with given_next(os.path.dirname(world.kept), number):
        world.undo(moved.id)
    assert os.stat(world.kept).st_ino == number
    last = act(world, "hardlink", world.kept, world.gone)
    with pytest.raises(Refused, match=rf"action {last.id} .*undo that first"):
        world.undo(1)
    undo_all(world)
    assert world.look() == before
