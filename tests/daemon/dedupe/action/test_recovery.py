"""Repair goes on whatever it finds, and never believes a folder that is not the one that was acted in."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from lorad.dedupe.action import recovery
from lorad.dedupe.action.actor import Actor
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.hidden import find
from lorad.dedupe.action.journal import Context, Journal
from lorad.dedupe.action.journal_file import JOURNAL
from lorad.dedupe.action.order import FreeOrder, Order, Refused
from lorad.dedupe.action.place import Folder, Reached
from lorad.dedupe.action.recovery import settle
from lorad.dedupe.process import Ready
from tests.daemon.dedupe.world import World, act, another, dies_at, look, make_world, side

#: Where an action, or freeing what it has put aside, may be killed.
ACTING = [
    ("hardlink", "planned"), ("hardlink", "link made"), ("hardlink", "put aside"), ("symlink", "put aside"),
    ("delete", "planned"), ("delete", "put aside"), ("delete", "synced"), ("quarantine", "put aside"),
]  # fmt: skip
FREEING = [("delete", "freeing"), ("symlink", "freeing"), ("hardlink", "freeing"), ("quarantine", "freeing")]


def acting(world: World, action: str, step: str) -> Callable[[Actor], object]:
    """What is to be killed at this step: an action, or freeing."""
    if step != "freeing":
        order = world.order(action)
        return lambda actor: actor.apply([order])
    order, number = FreeOrder(1, (side(world.kept, world.root),)), world.apply(action).id
    assert number == 1
    return lambda actor: actor.free([order])


def repaired(world: World) -> list[str]:
    """The states that repair brings the interrupted actions to."""
    with world.actor() as actor:
        return [result.state for result in actor.repair()]


def undo_all(world: World) -> None:
    with world.actor() as actor:
        actor.undo([each.id for each in world.history() if each.state in ("hidden", "waiting", "quarantined")])


@pytest.mark.parametrize("action", ["hardlink", "delete", "quarantine"])
def test_a_name_that_is_no_text_is_spoken_of_in_escapes(tmp_path: Path, action: str) -> None:
    """Repair, history and refusals go on where a name is not UTF-8, and the action is settled."""
    world = make_world(str(tmp_path))
    odd = os.path.join(os.path.dirname(world.gone), b"n\xff")
    os.mkdir(odd)
    path = os.path.join(odd, b"\xfe.safetensors")
    os.rename(world.gone, path)
    order = Order(action, "file", side(world.kept, world.root), side(path, world.root))
    dies_at(world, "planned", lambda actor: actor.apply([order]))
    os.rename(odd, odd + b" moved")
    with world.actor() as actor:
        (waits,) = actor.repair()
        assert waits.state == "planned"
        assert "n\\xff" in waits.text
        assert msgspec.msgpack.encode(Ready(actor.token, [waits, *world.history()]))
        with pytest.raises(Refused, match=r"n\\xff"):
            act(actor, order)
    os.rename(odd + b" moved", odd)
    assert repaired(world) == ["refused"]


def test_one_action_that_cannot_be_repaired_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong with one, the others are brought to an end."""
    world = make_world(str(tmp_path))
    orders = [world.order("delete")]
    orders.append(msgspec.structs.replace(orders[0], gone=side(another(world, b"2.safetensors"), world.root)))
    before = world.look()
    dies_at(world, "synced", lambda actor: actor.apply(orders))

    def fails_first(context: Context, entry: Entry, reached: Reached, text: str) -> Entry:
        if entry.id == 1:
            raise RuntimeError("out of order")
        return settle(context, entry, reached, text)

    with monkeypatch.context() as patch:
        patch.setattr(recovery, "settle", fails_first)
        assert repaired(world) == ["planned", "refused"]
    assert repaired(world) == ["refused"]
    assert world.look() == before


@pytest.mark.parametrize(("action", "step"), [*ACTING, *FREEING])
def test_a_folder_that_was_made_anew_is_not_believed(tmp_path: Path, action: str, step: str) -> None:
    """The action waits until the folder that it was begun in has its name again; then nothing is lost."""
    world = make_world(str(tmp_path))
    before = world.look()
    dies_at(world, step, acting(world, action, step))
    folder = os.path.dirname(world.gone)
    os.rename(folder, folder + b" moved")
    os.mkdir(folder)
    with world.actor() as actor:
        (waits,) = actor.repair()
        assert waits.state in {"planned", "freeing"}
        assert "not the folder" in waits.text
    os.rmdir(folder)
    os.rename(folder + b" moved", folder)
    assert repaired(world) in (["refused"], ["hidden"], ["quarantined"])
    undo_all(world)
    assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize(
    ("action", "step"), [("delete", "put aside"), ("delete", "freeing"), ("hardlink", "put aside")]
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
        dies_at(world, step, acting(world, action, step))
    finally:
        subprocess.run(["umount", os.fsdecode(world.root)], check=True)
    assert repaired(world) in (["planned"], ["freeing"])
    subprocess.run(mount, check=True)
    try:
        assert repaired(world) in (["refused"], ["hidden"])
        undo_all(world)
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
    dies_at(world, "planned", acting(world, action, "planned"))
    os.rename(world.gone, world.gone + b".elsewhere")
    assert repaired(world) == ["planned"]
    os.rename(world.gone + b".elsewhere", world.gone)
    assert repaired(world) == ["refused"]


@pytest.mark.parametrize("action", ["hardlink", "symlink", "delete", "quarantine"])
def test_another_file_in_its_place_stays_and_the_old_one_stays_hidden(tmp_path: Path, action: str) -> None:
    """Killed once it was put aside, and its name taken since: it is hidden as if nothing had happened."""
    world = make_world(str(tmp_path))
    before, newcomer = look(world.gone), another(world, b"newcomer")
    content = look(newcomer)
    dies_at(world, "synced", acting(world, action, "synced"))
    os.rename(newcomer, world.gone)
    assert repaired(world) in (["hidden"], ["quarantined"])
    undo_all(world)
    assert look(world.gone) == content
    assert look(world.gone.replace(b"gone.", b"gone (given back).")) == before
    assert not world.leftovers()


def test_a_commit_that_was_cut_short_is_rolled_back_by_a_reader(tmp_path: Path) -> None:
    """Killed within a commit, the journal tells of the last one before, to whoever looks first."""
    world = make_world(str(tmp_path))
    order = world.order("delete")

    torn: list[sqlite3.Connection] = []

    def tear(step: str) -> None:
        if step == "put aside":
            # Pages are on the disk that do not hold.
            torn.append(sqlite3.connect(os.path.join(world.state, JOURNAL), isolation_level=None))
            torn[0].execute("PRAGMA cache_size = 1")
            torn[0].execute("BEGIN IMMEDIATE")
            torn[0].execute("UPDATE actions SET state = 'freed', body = zeroblob(1000000)")

    dies_at(world, "put aside", lambda actor: actor.apply([order]), tear)
    assert Journal.is_torn(world.state)
    with closing(Journal(world.state, writing=False)) as journal:
        assert [entry.state for entry in journal.history()] == ["planned"]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            journal.update(journal.history()[0], state="freed")
    assert not Journal.is_torn(world.state)
    assert repaired(world) == ["refused"]


# What was hidden in a folder that was moved


def _found(world: World) -> dict[int, bytes]:
    with closing(Journal(world.state, writing=False)) as journal:
        wanted = {entry.id: entry for entry in journal.in_state("hidden", "waiting", "lost")}
        return find([world.root], journal.token, wanted)[0]


def _copied(folder: bytes, to: bytes) -> None:
    """`cp -r` and `rm -r`, as to another disk: other inodes, and times of now."""
    shutil.copytree(folder, to, symlinks=True, copy_function=shutil.copyfile)
    shutil.rmtree(folder)


@pytest.mark.parametrize("action", ["delete", "symlink", "hardlink"])
@pytest.mark.parametrize("how", ["mv", "cp -a", "cp -r"])
def test_what_was_hidden_is_found_where_its_folder_is_now(tmp_path: Path, action: str, how: str) -> None:
    """Moved or copied with all in it, it is given back there."""
    world = make_world(str(tmp_path), sidecars=False)
    before = look(world.gone)
    number = world.apply(action).id
    folder, to = os.path.dirname(world.gone), os.path.join(world.root, b"archive/2026")
    os.mkdir(os.path.dirname(to))
    match how:
        case "mv":
            os.rename(folder, to)
        case "cp -a":
            subprocess.run(["cp", "-a", folder, to], check=True)
            shutil.rmtree(folder)
        case _:
            _copied(folder, to)
    found = _found(world)
    assert [os.path.dirname(path) for path in found.values()] == [to]
    path = os.path.join(to, os.path.basename(world.gone))
    gone = msgspec.structs.replace(side(found[number], world.root), path=path)
    with world.actor() as actor:
        assert actor.note(number, "hidden", "", gone) is not None
        (result,) = actor.undo([number])
        assert (result.state, os.path.dirname(result.shown)) == ("undone", to)
    after = look(result.shown)
    assert after.content == before.content
    if how != "cp -r":
        assert after == before


@pytest.mark.parametrize("action", ["delete", "symlink"])
def test_what_was_hidden_and_moved_can_be_freed(tmp_path: Path, action: str) -> None:
    """Also where it is killed in that, in a folder that it was not hidden in."""
    world = make_world(str(tmp_path), sidecars=False)
    number = world.apply(action).id
    folder, to = os.path.dirname(world.gone), os.path.join(world.root, b"archive")
    _copied(folder, to)
    (path,) = _found(world).values()
    gone = msgspec.structs.replace(side(path, world.root), path=os.path.join(to, os.path.basename(world.gone)))
    with world.actor() as actor:
        actor.note(number, "hidden", "", gone)
    order = FreeOrder(number, (side(world.kept, world.root),))
    dies_at(world, "freeing", lambda actor: actor.free([order]))
    assert repaired(world) == ["hidden"]
    dies_at(world, "removed", lambda actor: actor.free([order]))
    assert repaired(world) == ["freed"]
    assert world.undo(number).state == "undone"
    assert os.path.exists(gone.path)


def test_what_was_hidden_is_not_taken_for_what_was_not(tmp_path: Path) -> None:
    """The file itself goes before a copy of its time, that before one of its size; others are none."""
    world = make_world(str(tmp_path))
    result = world.apply("delete")
    elsewhere = [os.path.join(world.root, name) for name in (b"a", b"b", b"c", b"d")]
    for folder in elsewhere:
        os.mkdir(folder)
    name = os.path.basename(result.aside)
    paths = [os.path.join(folder, name) for folder in elsewhere]
    Path(os.fsdecode(paths[0])).write_bytes(b"another size")
    shutil.copyfile(result.aside, paths[1])
    shutil.copy2(result.aside, paths[2])
    os.symlink(result.aside, paths[3])
    stranger = name.replace(b"-1", b"-7")
    shutil.copy2(result.aside, os.path.join(elsewhere[0], stranger))
    assert _found(world) == {1: result.aside}
    os.unlink(result.aside)
    assert _found(world) == {1: paths[2]}
    os.unlink(paths[2])
    assert _found(world) == {1: paths[1]}
    os.unlink(paths[1])
    assert _found(world) == {}
