"""Freeing: what was put aside is removed only while another file that holds the same was proven to be there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lorad.dedupe.action import free
from lorad.dedupe.action.order import FreeOrder, Order, Result
from lorad.dedupe.action.registry import ACTIONS
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.daemon.dedupe.world import (
    GONE,
    SPECS,
    Look,
    World,
    another,
    dies_at,
    files_in,
    look,
    make_world,
    read,
    side,
)  # fmt: skip

CASES = [
    ("hardlink", "file"),
    ("symlink", "tensors"),
    ("delete", "file"),
    ("delete", "tensors"),
    ("quarantine", "tensors"),
]
HELD = ("waiting", "quarantined")


def _everything(world: World) -> set[bytes]:
    """All content that can be read, hidden or in quarantine too."""
    return {read(path) for path in (*files_in(world.root), *world.leftovers()) if not os.path.islink(path)}


def _write(path: bytes, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _edited(path: bytes) -> None:
    """Another tensor, in place and behind size and mtime."""
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"\x55" * 10)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _swapped(path: bytes) -> None:
    write_safetensors(os.fsdecode(path) + ".new", random_weights(SPECS, 2))
    os.rename(path + b".new", path)


def _linked(path: bytes) -> None:
    os.rename(path, path + b".moved")
    os.symlink(path + b".moved", path)


def _other_header(path: bytes) -> None:
    said = {"lora_adapter_metadata": json.dumps({"r": 8, "lora_alpha": 99})}
    write_safetensors(os.fsdecode(path), random_weights(SPECS, 1), metadata=said)


def _other_config(path: bytes) -> None:
    beside = os.path.join(os.path.dirname(path), b"adapter_config.json")
    _write(beside, json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 99}).encode())


CHANGES = {
    "edited": (_edited, "differs after byte"),
    "swapped": (_swapped, "differs after byte"),
    "removed": (os.unlink, "not there any more"),
    "a link": (_linked, "symbolic link"),
    "empty": (lambda path: os.truncate(path, 0), "empty"),
    "no container": (lambda path: _write(path, b"<!DOCTYPE html>" * 9), "kept.safetensors: a web page"),
    "another header": (_other_header, "another function"),
    "another config": (_other_config, "another function"),
}


@pytest.mark.parametrize(
    ("action", "level", "change"),
    [
        (*case, change)
        for case in CASES
        for change in CHANGES
        # A link in place takes the configuration beside it.
        if change != "another config" or not ACTIONS[case[0]].links
    ],
)
def test_what_is_not_the_same_any_more_frees_nothing(tmp_path: Path, action: str, level: str, change: str) -> None:
    """It waits with the reason, and is freed once there is another file that may keep its weights."""
    world = make_world(str(tmp_path), level=level)
    content = read(world.gone)
    number = world.apply(action, level).id
    other = another(world, b"other/third.safetensors")
    do, said = CHANGES[change]
    identity = side(world.kept, world.root)
    do(world.kept)
    with world.actor() as actor:
        (result,) = actor.free([FreeOrder(number, (identity,))])
    assert result.state in HELD
    assert said in result.text
    assert content in _everything(world)
    with world.actor() as actor:
        (result,) = actor.free([FreeOrder(number, (identity, side(other, world.root)))])
        assert result.state in ("freed", "linked"), result.text
        (result,) = actor.undo([number], {number: [side(other, world.root)]})
        assert result.state == "undone", result.text
    assert content in {read(path) for path in files_in(os.path.dirname(world.gone)) if not os.path.islink(path)}


def test_without_a_kept_file_nothing_is_freed(tmp_path: Path) -> None:
    """It says so, once; what is not put aside is passed over."""
    world = make_world(str(tmp_path))
    number = world.apply("delete").id
    for _ in range(2):
        result = world.free(number, keepers=[])
        assert result.state == "waiting"
        assert "no other file that may keep these weights" in result.text
    world.undo(number)
    with world.actor() as actor:
        assert actor.free([FreeOrder(number, ()), FreeOrder(99, ())]) == []


def test_another_file_under_the_hidden_name_stays(tmp_path: Path) -> None:
    """It is not the file that was put aside."""
    world = make_world(str(tmp_path))
    result = world.apply("delete")
    shutil.copy2(result.aside, result.aside + b".new")
    os.rename(result.aside + b".new", result.aside)
    freed = world.free(result.id)
    assert freed.state == "waiting"
    assert "another file than the one that was put aside" in freed.text
    assert os.path.exists(result.aside)


def test_so_many_go_at_once_as_their_recipes_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others follow, and each is answered."""
    world = make_world(str(tmp_path))
    paths = [world.gone, *(another(world, b"%d.safetensors" % number) for number in range(4))]
    before, kept = world.look(), side(world.kept, world.root)
    with world.actor() as actor:
        results = actor.apply([Order("delete", "file", kept, side(path, world.root)) for path in paths])
    orders = [FreeOrder(result.id, (kept,) if result.id != 3 else ()) for result in results]
    steps: list[str] = []
    monkeypatch.setattr(free, "_RECIPES", 1)
    with world.actor(steps.append) as actor:
        states = {result.id: result.state for result in actor.free(orders)}
        assert states == {1: "freed", 2: "freed", 3: "waiting", 4: "freed", 5: "freed"}
        assert steps.count("freeing") == 4
        actor.undo([1, 2, 3, 4, 5])
    assert world.look() == before


def _free_and(world: World, number: int, step: str, meanwhile: Callable[[], object]) -> Result:
    waiting = [meanwhile]

    def at(name: str) -> None:
        if name == step and waiting:
            waiting.pop()()

    with world.actor(at) as actor:
        (result,) = actor.free([FreeOrder(number, (side(world.kept, world.root),))])
    assert not waiting, "the step was not reached"
    return result


@pytest.mark.parametrize(("action", "level"), CASES)
@pytest.mark.parametrize(
    ("step", "how"),
    [
        (step, how)
        for step in ("proven", "freeing", "removed", "removal synced", "freed")
        for how in ("removed", "replaced", "edited")
        # The lease ends with the group.
        if (step, how) != ("freed", "edited")
    ],
)
def test_never_the_last_copy(tmp_path: Path, action: str, level: str, step: str, how: str) -> None:
    """Where the kept file goes before the removal was looked at, the other one is there, or is written anew."""
    world = make_world(str(tmp_path), level=level)
    before = world.look()
    number = world.apply(action, level).id
    newcomer = os.path.join(world.root, b"newcomer")
    _write(newcomer, b"something else")

    def meanwhile() -> None:
        match how:
            case "removed":
                os.unlink(world.kept)
            case "replaced":
                os.rename(newcomer, world.kept)
            case _:
                # Who writes waits for the lease, which is given up at once.
                with pytest.raises(BlockingIOError):
                    os.close(os.open(world.kept, os.O_RDWR | os.O_NONBLOCK))

    result = _free_and(world, number, step, meanwhile)
    if step in ("removal synced", "freed"):
        assert result.state in ("freed", "linked")
        return
    assert result.state in HELD
    assert before[GONE].content in _everything(world)
    world.undo(number)
    found = [look(name) for name in files_in(world.root) if os.path.basename(name).startswith(b"gone")]
    assert before[GONE] in found
    assert not [name for name in world.leftovers() if name.endswith(b".tmp")]


@pytest.mark.parametrize("step", ["proven", "freeing"])
def test_what_is_written_to_what_is_put_aside_is_not_lost(tmp_path: Path, step: str) -> None:
    """Who opens the hidden file for writing has it: it is not removed."""
    world = make_world(str(tmp_path))
    result = world.apply("delete")

    def write() -> None:
        with pytest.raises(BlockingIOError):
            os.close(os.open(result.aside, os.O_RDWR | os.O_NONBLOCK))

    freed = _free_and(world, result.id, step, write)
    assert freed.state == "waiting"
    assert os.path.exists(result.aside)
    with open(result.aside, "r+b"):
        assert "open for writing" in world.free(result.id).text
    assert world.free(result.id).state == "freed"


@pytest.mark.parametrize("action", ["hardlink", "symlink", "delete", "quarantine"])
def test_killed_while_it_is_written_anew(tmp_path: Path, action: str) -> None:
    """The kept file went with the last name: once all of it is written, it comes back with all its attributes."""

    def begun(name: str) -> tuple[World, Look, FreeOrder]:
        world = make_world(str(tmp_path / name))
        before = look(world.gone)
        number = world.apply(action).id
        return world, before, FreeOrder(number, (side(world.kept, world.root),))

    def lose(world: World) -> Callable[[str], None]:
        return lambda step: os.unlink(world.kept) if step == "removed" else None

    world, _, order = begun("probe")
    steps: list[str] = []
    with world.actor(lambda step: (lose(world)(step), steps.append(step))[0]) as actor:
        actor.free([order])
    for number in range(steps.index("written anew"), len(steps)):
        world, before, order = begun(str(number))
        dies_at(world, number, lambda actor, order=order: actor.free([order]), lose(world))
        with world.actor() as actor:
            actor.repair()
            assert not actor.repair()
        assert world.history()[-1].state in ("hidden", *HELD)
        world.undo(order.number)
        found = [look(name) for name in files_in(world.root) if os.path.basename(name).startswith(b"gone")]
        assert before in found, steps[number]
        assert not [name for name in world.leftovers() if name.endswith(b".tmp")]
