"""Repair goes on whatever it finds, and never believes a folder that is not the one that was acted in."""

from __future__ import annotations

import os
import queue
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from lorad.dedupe.deputy import Deputy
from lorad.dedupe.desk import Desk
from lorad.dedupe.journal import JOURNAL, Entry, Journal
from lorad.dedupe.orders import Order, Refused, Savings, Unsettled
from lorad.dedupe.reach import Folder, Reached
from lorad.dedupe.settle import settle
from lorad.dedupe.site import Site
from lorad.dedupe.worker import Failed, Mended, TakeBack

from loracore.control import ActionRefused, Event
from lorad.audit import leftovers
from lorad.dedupe import steps
from tests.daemon.dedupe.world import World, dies_at, files_in, make_world, side


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
        msgspec.msgpack.encode(Mended([waits, *world.history()]))
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
    """Killed in the rehearsal, and the file renamed since: no empty file is left, hidden or by its name."""
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


def dies_in_commit(world: World, step: str, order: Order) -> None:
    """Killed in an action, right after this step and within a commit: pages are on the disk that do not hold."""
    child = os.fork()
    if not child:

        def at(name: str) -> None:
            if name == step:
                with sqlite3.connect(os.path.join(world.state, JOURNAL), isolation_level=None) as db:
                    db.execute("PRAGMA cache_size = 1")
                    db.execute("BEGIN IMMEDIATE")
                    db.execute("UPDATE actions SET state = 'done', body = zeroblob(1000000)")
                    os.kill(os.getpid(), signal.SIGKILL)

        with world.actor(at) as actor:
            actor.apply(order)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert Journal.is_torn(world.state)


def test_a_commit_that_was_cut_short_is_rolled_back_by_a_reader(tmp_path: Path) -> None:
    """Killed within a commit, the journal tells of the last one before, to whoever looks first."""
    world = make_world(str(tmp_path))
    dies_in_commit(world, "set aside", world.order("delete"))
    journal = Journal(world.state, writing=False)
    try:
        assert [entry.state for entry in journal.history()] == ["planned"]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            journal.update(journal.history()[0], state="done")
    finally:
        journal.close()
    assert not Journal.is_torn(world.state)


def test_a_desk_repairs_what_died_in_a_commit(tmp_path: Path) -> None:
    """At its start, without being asked: the file has its name again."""
    world = make_world(str(tmp_path))
    before = world.look()
    dies_in_commit(world, "set aside", world.order("delete"))
    events: queue.Queue[Event] = queue.Queue()
    desk = Desk(world.state, events.put)
    desk.start()
    try:
        assert isinstance(events.get(timeout=30), ActionRefused)
        assert world.look() == before
    finally:
        desk.stop(30)


def test_a_desk_repairs_again_what_had_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, as soon as the folder is back; that it waits is said once."""
    monkeypatch.setattr("lorad.dedupe.desk._AGAIN", (0.05,))
    world = make_world(str(tmp_path))
    before = world.look()
    dies_after(world, "set aside", world.order("delete"))
    folder = os.path.dirname(world.gone)
    os.rename(folder, folder + b" moved")
    events: queue.Queue[Event] = queue.Queue()
    desk = Desk(world.state, events.put)
    desk.start()
    try:
        told = events.get(timeout=30)
        assert isinstance(told, ActionRefused)
        assert "waits" in told.reason
        time.sleep(1)
        assert events.empty()
        os.rename(folder + b" moved", folder)
        told = events.get(timeout=30)
        assert isinstance(told, ActionRefused)
        assert "interrupted" in told.reason
        assert world.look() == before
    finally:
        desk.stop(30)


def test_a_quarantine_that_was_emptied_is_told_and_counts_no_more(tmp_path: Path) -> None:
    """Undo says what is gone; savings and `undo --all` pass over it; brought back, its number undoes it."""
    world = make_world(str(tmp_path))
    before = world.look()
    done = world.apply("quarantine")
    (held,) = files_in(os.fsencode(os.path.join(world.state, "quarantine")))
    for whole in (False, True):
        os.rename(os.path.dirname(held) if whole else held, tmp_path / "taken")
        with world.actor() as actor:
            with pytest.raises(Refused, match=r"in its quarantine .* no more"):
                actor.undo(done.id)
            assert world.history()[0].state == "emptied"
            assert world.savings() == Savings(0, 0, 0)
            assert actor.repair() == []
        journal = Journal(world.state, writing=False)
        assert journal.standing() == []
        journal.close()
        os.rename(tmp_path / "taken", os.path.dirname(held) if whole else held)
    assert world.undo(done.id).state == "undone"
    assert world.look() == before


def test_audit_tells_of_what_was_set_aside(tmp_path: Path) -> None:
    """Each may be the only copy of a file, and nobody sees it by himself."""
    world = make_world(str(tmp_path))
    assert leftovers([world.root]) == []
    dies_after(world, "set aside", world.order("delete"))
    (found,) = leftovers([world.root])
    assert [found.path] == world.leftovers()
    assert found.what == "leftover"


def test_a_worker_whose_action_waits_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next wish starts another one, which repairs first."""
    deputy = Deputy(str(tmp_path), lambda _: None)
    deputy.start()
    monkeypatch.setattr(deputy, "_words", iter([Failed("the disk is full", unsettled=True)]))
    (process,) = psutil.Process().children()
    with pytest.raises(Unsettled, match="the disk is full"):
        deputy.carry(TakeBack(1))
    assert not process.is_running()
