"""The service brings what was interrupted to an end by itself: at its start, and again while something waits."""

from __future__ import annotations

import os
import queue
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loracore.config import Config, Watch
from loracore.control import ActionRefused, Event, Freed
from lorad.dedupe import interrupted
from lorad.dedupe.action.journal import Journal
from lorad.dedupe.action.journal_file import JOURNAL
from lorad.dedupe.places import Places
from lorad.dedupe.service import Service
from lorad.dedupe.standing import Standing
from tests.daemon.dedupe.world import World, dies_at, make_world
from tests.disks import Hanging


@contextmanager
def serving(world: World, wake: Callable[[], None] = lambda: None) -> Iterator[tuple[Service, queue.Queue[Event]]]:
    """A service on a library, and what it tells."""
    events: queue.Queue[Event] = queue.Queue()
    service = Service(
        world.state, events.put, wake, lambda entry, by_itself: [entry.kept], Places(), lambda locks: None,
        lambda ids: [],
    )  # fmt: skip
    service.dispatch.start()
    try:
        yield service, events
    finally:
        service.stop(30)


def refused(events: queue.Queue[Event]) -> str:
    told = events.get(timeout=30)
    assert isinstance(told, ActionRefused)
    return told.reason


def test_what_died_in_a_commit_is_repaired_at_its_start(tmp_path: Path) -> None:
    """Without being asked: the file has its name again."""
    world = make_world(str(tmp_path))
    before, order = world.look(), world.order("delete")
    torn: list[sqlite3.Connection] = []

    def tear(step: str) -> None:
        if step == "put aside":
            torn.append(sqlite3.connect(os.path.join(world.state, JOURNAL), isolation_level=None))
            torn[0].execute("PRAGMA cache_size = 1")
            torn[0].execute("BEGIN IMMEDIATE")
            torn[0].execute("UPDATE actions SET state = 'freed', body = zeroblob(1000000)")

    dies_at(world, "put aside", lambda actor: actor.apply([order]), tear)
    assert Journal.is_torn(world.state)
    with serving(world) as (_, events):
        assert "interrupted" in refused(events)
        assert world.look() == before


def test_what_had_to_wait_is_repaired_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, as soon as the folder is back; that it waits is said once."""
    monkeypatch.setattr(interrupted, "_AGAIN", (0.05,))
    world = make_world(str(tmp_path))
    before, order = world.look(), world.order("delete")
    dies_at(world, "put aside", lambda actor: actor.apply([order]))
    folder = os.path.dirname(world.gone)
    os.rename(folder, folder + b" moved")
    tries: queue.Queue[None] = queue.Queue()
    with serving(world, lambda: tries.put(None)) as (_, events):
        assert "waits" in refused(events)
        for _ in range(3):
            tries.get(timeout=30)
        assert events.empty()
        os.rename(folder + b" moved", folder)
        assert "interrupted" in refused(events)
        assert world.look() == before


def test_what_the_journal_could_not_take_is_repaired_once_there_is_room(
    disk: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wish that fails over a full disk is refused; what it has begun is seen to by itself."""
    monkeypatch.setattr(interrupted, "_AGAIN", (0.05,))
    state = disk("tmpfs")
    world = make_world(str(tmp_path), state=state)
    order = world.order("delete")
    dies_at(world, "put aside", lambda actor: actor.apply([order]))
    filler = os.path.join(state, "filler")
    with open(filler, "wb") as file:
        room = os.statvfs(state)
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)
    with serving(world) as (_, events):
        assert "waits" in refused(events)
        os.unlink(filler)
        assert "interrupted; nothing was changed" in refused(events)
        assert os.path.exists(world.gone)


def test_a_wish_that_fails_over_the_journal_is_seen_to_by_itself(
    disk: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused with the reason; what it has begun is brought to an end as soon as there is room."""
    monkeypatch.setattr(interrupted, "_AGAIN", (0.05,))
    state = disk("tmpfs")
    world = make_world(str(tmp_path), state=state)
    world.apply("delete")
    filler = os.path.join(state, "filler")
    answers: queue.Queue[object] = queue.Queue()
    with serving(world) as (service, events):
        with open(filler, "wb") as file:
            room = os.statvfs(state)
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)
        service.requests.free([1], answers.put)
        assert "make room" in refused(events)
        answer = answers.get(timeout=30)
        assert isinstance(answer, Freed)
        assert (answer.done, answer.refused) == (0, 1)
        assert "make room" in answer.results[0].text
        os.unlink(filler)
        service.requests.free([1], answers.put)
        answer = answers.get(timeout=30)
        assert isinstance(answer, Freed)
        assert (answer.done, answer.refused) == (1, 0)


def test_a_file_system_that_hangs_keeps_no_other_back(tmp_path: Path, hanging: Hanging) -> None:
    """What lies on it is refused with the reason, and given back once it answers; all else comes at once."""
    (tmp_path / "here").mkdir()
    here = make_world(str(tmp_path / "here"))
    there = make_world(str(hanging.folder), state=here.state)
    one, other = (Standing.of(world.apply("delete"), []) for world in (here, there))
    hanging.hang()
    awake: queue.Queue[None] = queue.Queue()
    states: dict[int, str] = {}
    with serving(here, lambda: awake.put(None)) as (service, _):
        service.give_back([one, other], by_names=False)
        while len(states) < 2:
            awake.get(timeout=30)
            states |= {result.id: result.state for result in service.dispatch.take() if result.id}
        assert states == {one.id: "given_back", other.id: "refused"}
        assert os.path.exists(here.gone)
        hanging.go_on()
        while states[other.id] != "given_back":
            service.give_back([other], by_names=False)
            awake.get(timeout=30)
            states |= {result.id: result.state for result in service.dispatch.take() if result.id}
    assert os.path.exists(there.gone)


def test_names_that_a_moved_file_had_are_looked_after_again(tmp_path: Path) -> None:
    """It is given back where its folder is now; nothing is under way on the names that it was asked for by."""
    world = make_world(str(tmp_path))
    hidden = Standing.of(world.apply("delete"), [])
    folder = os.path.dirname(world.gone)
    os.rename(folder, folder + b" moved")
    awake: queue.Queue[None] = queue.Queue()
    with serving(world, lambda: awake.put(None)) as (service, _):
        service.use(Config(watch=Watch(roots=(os.fsdecode(world.root),))))
        service.give_back([hidden], by_names=False)
        while service.dispatch.is_under_way(hidden.path) or service.dispatch.is_under_way(hidden.aside):
            awake.get(timeout=30)
            for result in service.dispatch.take():
                service.dispatch.settled(result)
    assert os.path.exists(os.path.join(folder + b" moved", os.path.basename(world.gone)))


def test_a_process_that_cannot_be_started_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python itself is replaced, or no process can be made; all goes on once it can be."""
    world = make_world(str(tmp_path))
    hidden = Standing.of(world.apply("delete"), [])
    awake: queue.Queue[None] = queue.Queue()
    states: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        with serving(world, lambda: awake.put(None)) as (service, events):
            assert "cannot be started" in refused(events)
            for wanted in ("refused", "given_back"):
                service.give_back([hidden], by_names=False)
                while wanted not in states:
                    awake.get(timeout=30)
                    for result in service.dispatch.take():
                        service.dispatch.settled(result)
                        states.append(result.state)
                assert not service.dispatch.is_under_way(hidden.path)
                patch.undo()
    assert os.path.exists(world.gone)
