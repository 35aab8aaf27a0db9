"""SIGKILL at every step of every action and undo: after repair all is before or after, and undo restores it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lorad.dedupe import steps
from tests.daemon.dedupe.world import GONE, KEPT, SIDECARS, Look, World, dies_at, expected, make_world, steps_of

CASES = [(action, level, "keep") for action, level in steps.APPLY if action != "reflink"] + [
    ("delete", "file", "move"),
    ("quarantine", "tensors", "move"),
]


def _apply_steps(action: str, level: str, sidecars: str) -> list[str]:
    after = "set aside" if action == "delete" else "moved"
    names = list(steps.APPLY[action, level])
    return expected(names, after, "sidecar moved", len(SIDECARS)) if sidecars == "move" else names


def _undo_steps(action: str, sidecars: str) -> list[str]:
    names = list(steps.UNDO[action])
    if sidecars == "keep":
        return names
    return expected(names, names[names.index("undone") - 1], "sidecar returned", len(SIDECARS))


def _visible(looks: dict[bytes, Look]) -> dict[bytes, Look]:
    return {name: each for name, each in looks.items() if b".lorad" not in name}


def _assert_after(world: World, before: dict[bytes, Look], action: str, sidecars: str) -> None:
    """What the root looks like when the action is done."""
    now = _visible(world.look())
    wanted = dict(before)
    del wanted[GONE]
    if sidecars == "move":
        for name in SIDECARS:
            del wanted[name]
    there = now.pop(GONE, None)
    assert now == wanted
    if action == "hardlink":
        assert there == before[KEPT]
        assert os.path.samefile(world.kept, world.gone)
    elif action == "symlink":
        assert there is not None
        assert stat.S_ISLNK(there.kind)
        assert os.path.samefile(world.kept, world.gone)
    else:
        assert there is None


@pytest.mark.parametrize(("action", "level", "sidecars"), CASES)
def test_the_steps_are_the_documented_ones(tmp_path: Path, action: str, level: str, sidecars: str) -> None:
    """The lists of steps name every step, in order, of acting and of undoing; undo brings back everything."""
    world = make_world(str(tmp_path), level=level)
    before = world.look()

    def apply(at: object) -> None:
        with world.actor(at) as actor:
            assert actor.apply(world.order(action, level, sidecars=sidecars)).state == "done"

    assert steps_of(apply) == _apply_steps(action, level, sidecars)
    _assert_after(world, before, action, sidecars)

    def undo(at: object) -> None:
        with world.actor(at) as actor:
            assert actor.undo(1).state == "undone"

    assert steps_of(undo) == _undo_steps(action, sidecars)
    assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize(
    ("action", "level", "sidecars", "number"),
    [(*case, number) for case in CASES for number in range(len(_apply_steps(*case)))],
)
def test_killed_while_acting(tmp_path: Path, action: str, level: str, sidecars: str, number: int) -> None:
    """Killed at any step, repair brings names and content to all before or all after, and undo brings it back."""
    world = make_world(str(tmp_path), level=level)
    before = world.look()
    order = world.order(action, level, sidecars=sidecars)
    step = dies_at(world, number, lambda actor: actor.apply(order))
    with world.actor() as actor:
        repaired = [result.state for result in actor.repair()]
        assert not actor.repair()
        history = [result.state for result in world.history()]
    if step in ("removed", "removal synced", "done"):
        assert history == ["done"]
        assert repaired == (["done"] if step != "done" else [])
        _assert_after(world, before, action, sidecars)
        number_done = 1
    else:
        begun = step not in ("reached", "leased", "compared")
        assert history == ["failed"] * begun == repaired
        assert world.look() == before
        assert not world.leftovers()
        number_done = world.apply(action, level, sidecars=sidecars).id
        _assert_after(world, before, action, sidecars)
    assert world.undo(number_done).state == "undone"
    assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize(
    ("action", "level", "sidecars", "number"),
    [(*case, number) for case in CASES for number in range(len(_undo_steps(case[0], case[2])))],
)
def test_killed_while_undoing(tmp_path: Path, action: str, level: str, sidecars: str, number: int) -> None:
    """Killed at any step of an undo, repair brings it to undone or not undone at all, and it can be done again."""
    world = make_world(str(tmp_path), level=level)
    before = world.look()
    done = world.apply(action, level, sidecars=sidecars)
    dies_at(world, number, lambda actor: actor.undo(done.id))
    with world.actor() as actor:
        actor.repair()
        assert not actor.repair()
        (result,) = world.history()
    if result.state == "done":
        _assert_after(world, before, action, sidecars)
        assert world.undo(done.id).state == "undone"
    assert world.look() == before
    assert not world.leftovers()
    assert [each.state for each in world.history()] == ["undone"]


@pytest.mark.parametrize(("action", "level"), [("hardlink", "file"), ("symlink", "file"), ("symlink", "tensors")])
@pytest.mark.parametrize("number", range(len(steps.UNDO["delete"])))
def test_a_link_that_somebody_removed_is_undone_too(tmp_path: Path, action: str, level: str, number: int) -> None:
    """Its file comes back from the kept one, with all that belongs to it, also where the undo was killed."""
    world = make_world(str(tmp_path), level=level)
    before = world.look()
    done = world.apply(action, level)
    os.unlink(world.gone)
    assert dies_at(world, number, lambda actor: actor.undo(done.id)) == steps.UNDO["delete"][number]
    with world.actor() as actor:
        actor.repair()
    (result,) = world.history()
    if result.state == "done":
        assert not os.path.lexists(world.gone)
        assert world.undo(done.id).state == "undone"
    assert world.look() == before
    assert not world.leftovers()
