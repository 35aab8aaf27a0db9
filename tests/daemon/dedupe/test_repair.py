"""Repair goes on whatever it finds, and never believes a folder that is not the one that was acted in."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from lorad.dedupe import steps
from lorad.dedupe.journal import Entry
from lorad.dedupe.orders import Order, Refused, Unsettled
from lorad.dedupe.reach import Folder, Reached
from lorad.dedupe.settle import settle
from lorad.dedupe.site import Site
from lorad.dedupe.worker import Mended
from tests.daemon.dedupe.world import World, dies_at, make_world, side


def dies_after(world: World, step: str, order: Order) -> None:
    """Killed in an action right after this step."""
    names = steps.APPLY[order.action, order.level]
    dies_at(world, names.index(step), lambda actor: actor.apply(order))


def repaired(world: World) -> list[str]:
    """The states that repair brings the interrupted actions to."""
    with world.actor() as actor:
        return [result.state for result in actor.repair()]


@pytest.mark.parametrize("action", ["hardlink", "delete", "quarantine"])
def test_a_name_that_is_no_text_is_spoken_of_in_escapes(tmp_path: Path, action: str) -> None:
    """Repair, history and refusals go on where a name is not UTF-8, and the action is settled."""
    world = make_world(str(tmp_path))
    odd = os.path.join(os.path.dirname(world.gone), b"n\xff")
    os.mkdir(odd)
    path = os.path.join(odd, b"\xfe.safetensors")
    os.rename(world.gone, path)
    order = Order(action, "file", side(world.kept, world.root), side(path, world.root))
    dies_after(world, "planned", order)
    os.rename(odd, odd + b" moved")
    with world.actor() as actor:
        (waits,) = actor.repair()
        assert waits.state == "planned"
        assert "n\\xff" in waits.text
        msgspec.msgpack.encode(Mended([waits, *actor.history()]))
        with pytest.raises(Refused, match=r"n\\xff"):
            actor.apply(order)
    os.rename(odd + b" moved", odd)
    assert repaired(world) == ["failed"]


def test_one_action_that_cannot_be_repaired_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong with one, the others are brought to an end."""
    world = make_world(str(tmp_path))
    before = world.look()
    dies_after(world, "planned", world.order("delete"))
    dies_after(world, "set aside", world.order("delete"))

    def fails_first(site: Site, entry: Entry, reached: Reached, text: str) -> Entry:
        if entry.id == 1:
            raise RuntimeError("out of order")
        return settle(site, entry, reached, text)

    monkeypatch.setattr("lorad.dedupe.repair.settle", fails_first)
    assert repaired(world) == ["planned", "failed"]
    assert world.look() == before


@pytest.mark.parametrize("action", ["hardlink", "symlink", "delete", "quarantine"])
@pytest.mark.parametrize("step", ["planned", "exchanged", "set aside", "moved", "removing"])
def test_a_folder_that_was_made_anew_is_not_believed(tmp_path: Path, action: str, step: str) -> None:
    """The action waits until the folder that it was begun in has its name again; then all is as before."""
    world = make_world(str(tmp_path))
    before = world.look()
    if step not in steps.APPLY[action, "file"]:
        return
    dies_after(world, step, world.order(action))
    folder = os.path.dirname(world.gone)
    os.rename(folder, folder + b" moved")
    os.mkdir(folder)
    with world.actor() as actor:
        (waits,) = actor.repair()
        assert waits.state in {"planned", "removing"}
        assert "not the folder" in waits.text
    os.rmdir(folder)
    os.rename(folder + b" moved", folder)
    assert repaired(world) == ["failed"]
    assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize(
    ("action", "step"), [("delete", "set aside"), ("delete", "removing"), ("hardlink", "exchanged")]
)
def test_a_disk_that_is_not_mounted_is_waited_for(
    disk: Callable[[str], str], tmp_path: Path, action: str, step: str
) -> None:
    """What the empty mount point shows is not what became of the file."""
    top = disk("ext4")
    world = make_world(top, state=str(tmp_path / "state"))
    world = World(os.fsencode(tmp_path / "point"), world.state)
    os.mkdir(world.root)
    mount = ["mount", "--bind", os.path.join(top, "root"), os.fsdecode(world.root)]
    # As the mount point is found when nothing is mounted: the same folders, and nothing in them.
    os.makedirs(os.path.dirname(world.gone))
    subprocess.run(mount, check=True)
    try:
        before = world.look()
        dies_after(world, step, world.order(action))
    finally:
        subprocess.run(["umount", os.fsdecode(world.root)], check=True)
    assert repaired(world) in (["planned"], ["removing"])
    subprocess.run(mount, check=True)
    try:
        assert repaired(world) == ["failed"]
        assert world.look() == before
    finally:
        subprocess.run(["umount", os.fsdecode(world.root)], check=True)


@pytest.mark.parametrize("action", ["delete", "quarantine"])
def test_a_folder_that_was_not_noted_proves_nothing(
    tmp_path: Path, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the disk has another number since: only what is found counts, not what is missing."""
    world = make_world(str(tmp_path))
    monkeypatch.setattr(Folder, "of", lambda fd: Folder())
    dies_after(world, "planned", world.order(action))
    os.rename(world.gone, world.gone + b".elsewhere")
    assert repaired(world) == ["planned"]
    os.rename(world.gone + b".elsewhere", world.gone)
    assert repaired(world) == ["failed"]


def test_what_attributes_were_tried_on_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the rehearsal, and the file renamed since: no empty file is left, neither hidden nor by its name."""
    world = make_world(str(tmp_path))
    before = world.look()
    monkeypatch.setattr("lorad.dedupe.attributes.Attributes.give", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    for action in ("hardlink", "symlink", "delete"):
        pid = os.fork()
        if not pid:
            with world.actor() as actor:
                actor.apply(world.order(action))
        os.waitpid(pid, 0)
        assert world.leftovers()
        os.rename(world.gone, world.gone + b".mine")
        assert repaired(world) == ["failed"]
        assert not os.path.lexists(world.gone)
        assert not world.leftovers()
        os.rename(world.gone + b".mine", world.gone)
        assert world.look() == before


@pytest.mark.parametrize(
    ("action", "step"), [("hardlink", "exchanged"), ("delete", "set aside"), ("quarantine", "moved")]
)
def test_names_come_back_also_without_room_for_the_journal(
    disk: Callable[[str], str], tmp_path: Path, action: str, step: str
) -> None:
    """In the middle of an action: at once, and not at the next start. The journal follows when there is room."""
    state = disk("tmpfs")
    world = make_world(str(tmp_path), state=state)
    before = world.look()
    filler = os.path.join(state, "filler")

    def fill(at: str) -> None:
        if at == step:
            with open(filler, "wb") as file:
                room = os.statvfs(state)
                os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)

    with world.actor(fill) as actor, pytest.raises(Unsettled, match=r"full|no space"):
        actor.apply(world.order(action))
    assert {name: each for name, each in world.look().items() if b".lorad" not in name} == before
    assert not [name for name in world.look() if b".tmp" in name]
    os.unlink(filler)
    assert repaired(world) == ["failed"]
    assert world.look() == before
