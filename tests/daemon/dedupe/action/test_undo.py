"""Giving back and undoing: by a rename, beside what stands there, and whatever became of the journal meanwhile."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lorad.dedupe.action import undo
from lorad.dedupe.action.order import Order, Refused, Result
from tests.daemon.dedupe.world import GONE, KEPT, World, act, another, files_in, look, make_world, read, side

HIDING = ("hardlink", "symlink", "delete", "quarantine")
BESIDE = GONE.replace(b"gone.", b"gone (given back).")


def _act(world: World, action: str, kept: bytes, gone: bytes, level: str = "file") -> Result:
    with world.actor() as actor:
        return act(actor, Order(action, level, side(kept, world.root), side(gone, world.root)))


def _undo_all(world: World) -> None:
    with world.actor() as actor:
        standing = [each.id for each in reversed(world.history()) if each.state not in ("undone", "given_back")]
        assert {result.state for result in actor.undo(standing)} == {"undone"}


@pytest.mark.parametrize("action", HIDING)
@pytest.mark.parametrize("back", ["give back", "undo", "undo freed"])
def test_nothing_that_stands_in_its_place_is_overwritten(tmp_path: Path, action: str, back: str) -> None:
    """Where its name is taken it becomes `NAME (given back).EXT`, and where that is, one with a number."""
    for taken in (1, 2, 3):
        world = make_world(str(tmp_path / str(taken)))
        before = world.look()
        number = world.apply(action).id
        if back == "undo freed":
            world.free(number)
        if os.path.lexists(world.gone):
            os.unlink(world.gone)
        ends = [b".", b" (given back).", b" (given back) (2).", b" (given back) (3)."]
        names = [GONE.replace(b"gone.", b"gone" + end) for end in ends]
        for name in names[:taken]:
            another(world, name, note=name)
        stands = world.look()
        result = world.give_back(number) if back == "give back" else world.undo(number)
        assert result.state == ("given_back" if back == "give back" else "undone")
        assert result.shown == os.path.join(world.root, names[taken])
        assert "its name is taken" in result.text
        after = world.look()
        assert after.pop(names[taken]) == before[GONE]
        assert after == {name: each for name, each in stands.items() if b".aside-" not in name}
        assert not world.leftovers()


def test_a_link_that_leads_to_another_content_stays(tmp_path: Path) -> None:
    """What is written through it is its owner's: the old content returns beside it."""
    for action in ("hardlink", "symlink"):
        world = make_world(str(tmp_path / action))
        before = world.look()
        number = world.apply(action).id
        with open(world.gone, "r+b") as file:
            file.write(b"written through the link")
        changed = read(world.kept)
        assert world.give_back(number).shown == os.path.join(world.root, BESIDE)
        assert look(os.path.join(world.root, BESIDE)) == before[GONE]
        assert os.path.samefile(world.gone, world.kept)
        assert read(world.kept) == changed
        assert world.undo(number).state == "nothing"


def test_a_link_that_leads_nowhere_gives_way(tmp_path: Path) -> None:
    """Without the kept file, the folder becomes what it would be without lorad."""
    world = make_world(str(tmp_path))
    before = world.look()
    number = world.apply("symlink").id
    os.unlink(world.kept)
    assert world.give_back(number).state == "given_back"
    del before[KEPT]
    assert world.look() == before


@pytest.mark.parametrize("back", ["give back", "undo", "undo freed"])
@pytest.mark.parametrize("written", [False, True])
def test_the_only_name_of_a_kept_file(tmp_path: Path, back: str, written: bool) -> None:
    """A hard link of ours that holds the same gives way to an undo; what was written through it never does."""
    world = make_world(str(tmp_path))
    before = world.look()
    number = world.apply("hardlink").id
    if back == "undo freed":
        world.free(number)
    other = another(world, b"third.safetensors")
    os.unlink(world.kept)
    if written:
        with open(world.gone, "r+b") as file:
            file.write(b"written through the link")
    link = look(world.gone)
    with world.actor() as actor:
        if back == "give back":
            actor.give_back([number])
        else:
            assert actor.undo([number], {number: [side(other, world.root)]})[0].state == "undone"
    after = world.look()
    if written or back == "give back":
        assert (after[BESIDE], after[GONE]) == (before[GONE], link)
    else:
        assert after[GONE] == before[GONE]
        assert BESIDE not in after


def test_who_opens_the_only_name_for_writing_keeps_it(tmp_path: Path) -> None:
    """Just when it would give way, after it was compared."""
    world = make_world(str(tmp_path))
    before = world.look()
    number = world.apply("hardlink").id
    os.unlink(world.kept)
    writers: list[threading.Thread] = []

    def write() -> None:
        with open(world.gone, "r+b") as file:
            file.write(b"written through the link")

    def come(folder: int, name: bytes, other: bytes, real: Callable[..., None] = undo.exchange) -> None:
        if not writers:
            writers.append(threading.Thread(target=write))
            writers[0].start()
            while b"BREAKING" not in Path("/proc/locks").read_bytes():
                os.sched_yield()
        real(folder, name, other)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(undo, "exchange", come)
        world.undo(number)
    writers[0].join()
    after = world.look()
    assert after[GONE].content.startswith(b"written through the link")
    assert after[BESIDE] == before[GONE]


def test_what_is_undone_or_given_back_is_nothing_to_do(tmp_path: Path) -> None:
    """Nor is it given back twice; a set that was taken back can be acted on at once."""
    world = make_world(str(tmp_path))
    for action in HIDING:
        for back in (world.undo, world.give_back):
            number = world.apply(action).id
            os.unlink(world.gone) if os.path.islink(world.gone) else None
            back(number)
            assert world.undo(number).state == "nothing"
            with world.actor() as actor:
                assert actor.give_back([number, 99]) == []
            if os.path.exists(beside := os.path.join(world.root, BESIDE)):
                os.rename(beside, world.gone)


@pytest.mark.parametrize("action", HIDING)
def test_what_was_put_aside_and_removed_by_others_is_said(tmp_path: Path, action: str) -> None:
    """It is lost, and undo says so; brought back to where it was, it can be undone."""
    world = make_world(str(tmp_path))
    before = world.look()
    result = world.apply(action)
    os.rename(result.aside, tmp_path / "taken")
    with pytest.raises(Refused, match="is not there; mount its disk or put it back there"):
        world.undo(result.id)
    with world.actor() as actor:
        assert actor.note(result.id, "lost", "it was removed from where it was put aside") is not None
        (refused,) = actor.undo([result.id])
        assert refused.state == "refused"
        assert "removed by another program" in refused.text
    os.rename(tmp_path / "taken", result.aside)
    assert world.undo(result.id).state == "undone"
    assert world.look() == before


# Without the journal


def test_what_came_back_without_the_journal_is_recorded(disk: Callable[[str], str], tmp_path: Path) -> None:
    """A full state disk keeps no file back; it is written down when there is room."""
    state = disk("tmpfs")
    world = make_world(str(tmp_path), state=state)
    before = world.look()
    numbers = [world.apply("delete", sidecars="move").id]
    os.unlink(world.kept)
    filler = os.path.join(state, "filler")
    with open(filler, "wb") as file:
        room = os.statvfs(state)
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)
    del before[KEPT]
    with world.actor() as actor:
        (result,) = actor.give_back(numbers)
        assert result.state == "given_back"
        assert world.look() == before
        assert [each.state for each in world.history()] == ["hidden"]
        os.unlink(filler)
        (recorded,) = actor.set_clock(0.0)
        assert (recorded.state, recorded.shown) == ("given_back", world.gone)
        assert actor.set_clock(0.0) == []
    assert [each.state for each in world.history()] == ["given_back"]


@pytest.mark.parametrize("action", ["symlink", "hardlink", "delete"])
def test_a_state_folder_that_vanished_keeps_no_file_back(tmp_path: Path, action: str) -> None:
    """Nothing else is done without it; when it is there again, it is told what came back."""
    world = make_world(str(tmp_path))
    content = look(world.gone)
    number = world.apply(action).id
    with world.actor() as actor:
        os.rename(world.state, world.state + "-away")
        os.unlink(world.kept)
        if action == "hardlink":
            os.unlink(world.gone)
        (result,) = actor.give_back([number])
        assert result.state == "given_back"
        assert look(world.gone) == content
        with pytest.raises(Exception, match="not there any more; mount its disk again"):
            actor.undo([number])
    os.rename(world.state + "-away", world.state)
    with world.actor() as actor:
        assert [each.state for each in actor.repair()] == ["given_back"]
    assert not world.leftovers()


def test_a_file_of_another_disk_with_its_inodes_number_is_not_taken_for_it(tmp_path: Path) -> None:
    """As long as what was put aside is there, it is given back beside it."""
    world = make_world(str(tmp_path))
    before = world.look()[GONE]
    result = world.apply("quarantine")
    # One more name of the same inode stands for a number that is used on two disks.
    os.link(result.aside, world.gone)
    shutil.copy2(result.aside, result.aside + b".new")
    os.rename(result.aside + b".new", result.aside)
    with world.actor() as actor:
        assert actor.set_clock(0.0) == []
        (back,) = actor.undo([result.id])
    assert back.shown == os.path.join(world.root, BESIDE)
    assert read(back.shown) == before.content
    assert not world.leftovers()


# One action on what another one left


def test_kept_files_that_went_themselves(tmp_path: Path) -> None:
    """A for B, then B for C, hidden or freed: undone from the last to the first, each is as it was."""
    for action in HIDING:
        for freed in (False, True):
            world = make_world(str(tmp_path / f"{action}{freed}"))
            third = another(world, b"third.safetensors")
            before = world.look()
            for kept, gone in ((world.kept, world.gone), (third, world.kept)):
                number = _act(world, action, kept, gone).id
                if freed:
                    assert world.free(number, keepers=[kept]).state in ("freed", "linked")
            with world.actor() as actor:
                sources = {number: [side(third, world.root)] for number in (1, 2)}
                assert [each.state for each in actor.undo([2, 1], sources)] == ["undone", "undone"]
            assert world.look() == before
            assert world.savings().actions == 0


@pytest.mark.parametrize("later", HIDING)
def test_what_went_with_a_hard_link_comes_back_with_its_own_attributes(tmp_path: Path, later: str) -> None:
    """A name is linked to a file, all whose names go for another one: undo brings back every attribute."""
    world = make_world(str(tmp_path))
    other = another(world, b"third.safetensors")
    before = world.look()
    _act(world, "hardlink", world.kept, world.gone)
    for name in (world.kept, world.gone):
        _act(world, later, other, name)
    _undo_all(world)
    assert world.look() == before


def test_links_of_links_are_taken_apart_to_the_first(tmp_path: Path) -> None:
    """Whatever was linked again and again, each undo finds what the one before it put back."""
    world = make_world(str(tmp_path))
    second, last = another(world, b"second.safetensors"), another(world, b"last.safetensors", note=b"last")
    before = world.look()
    _act(world, "hardlink", world.kept, world.gone)
    for name in (world.kept, world.gone):
        _act(world, "hardlink", second, name)
    for name in (world.kept, second, world.gone):
        _act(world, "hardlink", last, name)
    _undo_all(world)
    assert world.look() == before


def test_of_two_links_in_one_place_the_later_is_undone_first(tmp_path: Path) -> None:
    """Where the first was freed: it says which one that is."""
    world = make_world(str(tmp_path))
    other = another(world, b"third.safetensors")
    before = world.look()
    for kept in (world.kept, other):
        number = _act(world, "hardlink", kept, world.gone).id
        assert world.free(number, keepers=[kept]).state == "linked"
    with pytest.raises(Refused, match=r"action 2 has replaced it since; undo that first"):
        world.undo(1)
    world.undo(2)
    world.undo(1)
    found = [look(path) for path in files_in(os.path.dirname(world.gone))]
    assert before[GONE] in found
