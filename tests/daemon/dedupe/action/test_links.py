"""Links in a file's place: nobody's access changes, and a symbolic link is led to where the kept file is."""

from __future__ import annotations

import os
import queue
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from loracore.config import Config, Watch
from loracore.identity import Identity
from lorad.dedupe.action.actor import Actor
from lorad.dedupe.action.order import Order, Refused, Side
from lorad.dedupe.standing import Standing
from tests.daemon.dedupe.test_service import serving
from tests.daemon.dedupe.world import GONE, World, act, another, dies_at, look, make_world, read, side, steps_of


@pytest.mark.parametrize("action", ["hardlink", "symlink"])
@pytest.mark.parametrize("what", ["mode", "owner", "acl"])
def test_a_link_changes_nobodys_access(tmp_path: Path, action: str, what: str) -> None:
    """A link has one owner, mode and ACL for both names, so where they differ it is refused."""
    world = make_world(str(tmp_path))
    if what == "mode":
        os.chmod(world.gone, 0o600)
    elif what == "acl":
        os.removexattr(world.gone, "system.posix_acl_access")
    elif os.geteuid() == 0:
        os.chown(world.gone, 77, 88)
    else:
        pytest.skip("only root can give a file away")
    before = world.look()
    with pytest.raises(Refused, match="owner, mode or ACL differ"):
        world.apply(action)
    assert world.look() == before
    assert world.apply("quarantine").state == "quarantined"


def _moved(world: World) -> bytes:
    """Move the kept file; where it is now."""
    path = os.path.join(world.root, b"renamed/kept.safetensors")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.rename(world.kept, path)
    return path


def test_a_freed_link_is_led_only_to_what_holds_the_same_layers(tmp_path: Path) -> None:
    """Where nobody has read them, that is looked at in full; another file, or a link of another, stays."""
    world = make_world(str(tmp_path))
    world.apply("symlink")
    assert world.free(1).state == "freed"
    other = another(world, b"other.safetensors")
    path = _moved(world)
    with open(other, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    with world.actor() as actor:
        with pytest.raises(Refused, match="layers are not those"):
            actor.retarget(1, side(other, world.root), prove=True)
        assert not os.path.exists(world.gone)
        assert actor.retarget(1, side(path, world.root), prove=True).kept == path
    assert os.path.samefile(world.gone, path)


def _led(world: World, path: bytes) -> Callable[[Actor], object]:
    return lambda actor: actor.retarget(1, side(path, world.root))


@pytest.mark.parametrize("freed", [False, True])
def test_a_link_is_led_to_where_the_kept_file_is(tmp_path: Path, freed: bool) -> None:
    """Also back again, and any number of times; undo brings the file itself back."""
    world = make_world(str(tmp_path))
    before = world.look()
    world.apply("symlink")
    if freed:
        assert world.free(1).state == "freed"
    for _ in range(3):
        path = _moved(world)
        with world.actor() as actor:
            assert actor.retarget(1, side(path, world.root)).kept == path
        assert os.readlink(world.gone) == b"../../renamed/kept.safetensors"
        assert os.path.samefile(world.gone, path)
        os.rename(path, world.kept)
        with world.actor() as actor:
            _led(world, world.kept)(actor)
        assert os.readlink(world.gone) == b"../../models/kept.safetensors"
    world.undo(1)
    assert world.look() == before


def test_what_the_owner_put_in_the_place_of_a_link_stays(tmp_path: Path) -> None:
    """A file, another link or nothing: none is led anywhere, and undo puts the file beside it."""
    for number, change in enumerate(
        (
            lambda path: os.symlink(b"/elsewhere", path),
            lambda path: shutil.copyfile(__file__, path),
            lambda path: None,
        )
    ):
        world = make_world(str(tmp_path / str(number)))
        before = world.look()
        world.apply("symlink")
        path = _moved(world)
        os.unlink(world.gone)
        change(world.gone)
        now = world.look()
        with world.actor() as actor, pytest.raises(Refused, match="removed or replaced"):
            _led(world, path)(actor)
        assert world.look() == now
        world.undo(1)
        there = {name for name, each in world.look().items() if each == before[GONE]}
        assert there == ({GONE} if GONE not in now else {b"downloads/new/gone (given back).safetensors"})
        if GONE in now:
            assert world.look()[GONE] == now[GONE]


def test_a_file_that_comes_in_the_place_of_a_link_meanwhile_stays(tmp_path: Path) -> None:
    """At the last instant before the two names change places, too."""
    for step in ("target noted", "new link made", "led on"):
        world = make_world(str(tmp_path / step))
        world.apply("symlink")
        newcomer = another(world, b"newcomer")
        path = _moved(world)
        content = look(newcomer)

        def replace(name: str, step: str = step, world: World = world, newcomer: bytes = newcomer) -> None:
            if name == step:
                os.rename(newcomer, world.gone)

        with world.actor(replace) as actor:
            try:
                actor.retarget(1, side(path, world.root))
            except Refused:
                assert step != "led on"
        assert look(world.gone) == content
        assert not [name for name in world.leftovers() if name.endswith(b".tmp")]


@pytest.mark.parametrize("freed", [False, True])
def test_killed_while_a_link_is_led_on(tmp_path: Path, freed: bool) -> None:
    """It is one of ours at each step, is led on at the next try, and undo brings the file back."""

    def begun(number: int) -> tuple[World, bytes, dict[bytes, object]]:
        world = make_world(str(tmp_path / str(number)))
        before = dict(world.look())
        world.apply("symlink")
        if freed:
            world.free(1)
        return world, _moved(world), before

    world, path, _ = begun(-1)

    def all_steps(at: Callable[[str], None]) -> None:
        with world.actor(at) as actor:
            _led(world, path)(actor)

    steps = steps_of(all_steps)
    assert len(steps) > 3
    for number in range(len(steps)):
        world, path, before = begun(number)
        dies_at(world, number, _led(world, path))
        with world.actor() as actor:
            actor.repair()
            (entry,) = world.history()
            assert entry.kept == world.kept or number == len(steps) - 1, "it is tried again"
            _led(world, path)(actor)
        assert os.path.samefile(world.gone, path)
        world.undo(1)
        os.rename(path, world.kept)
        assert world.look() == before


@pytest.mark.parametrize("action", ["delete", "quarantine", "symlink", "hardlink"])
def test_what_a_link_leads_to_may_go_and_the_link_is_led_on(tmp_path: Path, action: str) -> None:
    """A hidden for B, then B for C: both can be read meanwhile, and all comes back in any order."""
    for order in ((1, 2), (2, 1)):
        world = make_world(str(tmp_path / str(order[0])))
        third = another(world, b"third.safetensors")
        before = world.look()
        world.apply("symlink")
        with world.actor() as actor:
            act(actor, Order(action, "file", side(third, world.root), side(world.kept, world.root)))
        assert read(os.path.realpath(world.gone)) == before[GONE].content
        assert os.path.realpath(world.gone) == third
        for number in order:
            world.undo(number)
        assert world.look() == before


# A link that its owner moves


def _elsewhere(world: World) -> bytes:
    """Move the link, also one folder deeper; where it is now."""
    path = os.path.join(world.root, b"elsewhere/deep/er/model.safetensors")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.rename(world.gone, path)
    return path


def _at(world: World, path: bytes) -> Side:
    return Side(path, Identity(0, 0, 0, 0, 0), world.root)


@pytest.mark.parametrize("freed", [False, True])
def test_a_link_that_was_moved_leads_on_and_undo_brings_its_file_there(tmp_path: Path, freed: bool) -> None:
    """What is hidden lies beside it then, and has its new name again where it is missed."""
    world = make_world(str(tmp_path), sidecars=False)
    before = look(world.gone)
    world.apply("symlink")
    if freed:
        assert world.free(1).state == "freed"
    path = _elsewhere(world)
    assert not os.path.exists(path)
    with world.actor() as actor:
        actor.follow(1, _at(world, path))
    assert os.path.samefile(path, world.kept)
    assert len([name for name in os.listdir(os.path.dirname(path)) if b".aside-" in name]) == int(not freed)
    assert world.undo(1).shown == path
    assert look(path) == before
    assert not world.leftovers()


def test_nothing_else_is_taken_for_a_link_that_was_moved(tmp_path: Path) -> None:
    """Not another link that says the same, nor a file."""
    world = make_world(str(tmp_path), sidecars=False)
    world.apply("symlink")
    stranger = os.path.join(os.path.dirname(world.gone), b"stranger.safetensors")
    os.symlink(os.readlink(world.gone), stranger)
    for path in (stranger, world.kept):
        with world.actor() as actor, pytest.raises(Refused, match="not the link that was moved"):
            actor.follow(1, _at(world, path))
    assert os.path.samefile(world.gone, world.kept)


def test_killed_while_it_goes_with_a_link(tmp_path: Path) -> None:
    """After each step, what was hidden is found, given back, and complete."""
    first = make_world(str(tmp_path / "first"), sidecars=False)
    first.apply("symlink")
    path = _elsewhere(first)
    steps = []
    with first.actor(steps.append) as actor:
        steps.clear()
        actor.follow(1, _at(first, path))
    assert steps[:2] == ["hidden beside its link", "followed"]
    for number, step in enumerate(steps):
        world = make_world(str(tmp_path / str(number)), sidecars=False)
        before = look(world.gone)
        world.apply("symlink")
        path = _elsewhere(world)
        link = _at(world, path)
        dies_at(world, step, lambda actor, link=link: actor.follow(1, link))
        awake: queue.Queue[None] = queue.Queue()
        with serving(world, lambda awake=awake: awake.put(None)) as (service, _):
            service.use(Config(watch=Watch(roots=(os.fsdecode(world.root),))))
            (hidden,) = (Standing.of(result, []) for result in service.in_force())
            service.give_back([hidden], by_names=False)
            shown = b""
            while not shown:
                awake.get(timeout=30)
                shown = b"".join(result.shown for result in service.dispatch.take())
        assert look(shown) == before, step
        assert os.path.dirname(shown) == os.path.dirname(path), step
        assert not [name for name in world.leftovers() if b".aside-" in name], step
