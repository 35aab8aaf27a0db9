"""The service brings what was interrupted to an end by itself: at its start, and again while something waits."""

from __future__ import annotations

import os
import queue
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loracore.config import Config, Watch
from loracore.control import (
    ActionRefused,
    ActionTaken,
    Applied,
    DedupeProgress,
    Event,
    FileGivenBack,
    Freed,
    Undone,
)
from loracore.identity import Identity
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.journal import Journal
from lorad.dedupe.action.journal_file import JOURNAL
from lorad.dedupe.action.order import Progress, Result, Side, silent
from lorad.dedupe.apply import GROUP
from lorad.dedupe.candidates import Keepers
from lorad.dedupe.places import Places
from lorad.dedupe.plan import Plan, Step
from lorad.dedupe.process import ActionProcess, Wish
from lorad.dedupe.service import Service
from lorad.dedupe.standing import Standing
from lorad.library.keepers import Copy
from tests.daemon.dedupe.world import World, another, dies_at, make_world
from tests.disks import Hanging


@contextmanager
def serving(
    world: World,
    wake: Callable[[], None] = lambda: None,
    *,
    keepers: Keepers = lambda entry, by_itself: [entry.kept],
    acting: Callable[[str, Callable[[list[Result]], None]], ActionProcess] = ActionProcess,
    group: int = GROUP,
) -> Iterator[tuple[Service, queue.Queue[Event]]]:
    """A service on a library, and what it tells."""
    events: queue.Queue[Event] = queue.Queue()
    service = Service(
        world.state, events.put, wake, keepers, Places(), lambda ids: [], acting=acting, again=(0.05,), group=group
    )
    service.dispatch.start()
    try:
        yield service, events
    finally:
        service.stop(30)


def refused(events: queue.Queue[Event]) -> str:
    told = events.get(timeout=30)
    assert isinstance(told, ActionRefused)
    return told.reason


def copy_of(path: bytes) -> Copy:
    now = Identity.of(os.lstat(path))
    return Copy((path,), now.dev, now.ino, now.size, now.mtime_ns, now.ctime_ns, b"")


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


def test_what_had_to_wait_is_repaired_again(tmp_path: Path) -> None:
    """By itself, as soon as the folder is back; that it waits is said once."""
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
    disk: Callable[[str], str], tmp_path: Path
) -> None:
    """A wish that fails over a full disk is refused; what it has begun is seen to by itself."""
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
    disk: Callable[[str], str], tmp_path: Path
) -> None:
    """It is refused with the reason; what it has begun is brought to an end as soon as there is room."""
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


@contextmanager
def no_writing(folder: bytes) -> Iterator[None]:
    """Whoever runs this may not write to the folder: for root it is a read-only mount."""
    if os.geteuid():
        os.chmod(folder, 0o555)
        yield
        os.chmod(folder, 0o755)
        return
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_what_lies_where_nothing_may_be_written_is_not_lost(tmp_path: Path) -> None:
    """Its folder was moved; once that may be written to, it is found there, and given back."""
    world = make_world(str(tmp_path))
    hidden = Standing.of(world.apply("delete"), [])
    folder = os.path.dirname(world.gone)
    os.rename(folder, folder + b" moved")
    answers: queue.Queue[object] = queue.Queue()
    with serving(world) as (service, events):
        service.use(Config(watch=Watch(roots=(os.fsdecode(world.root),))))
        with no_writing(folder + b" moved"):
            service.look_for([hidden.id])
            # It is answered after that.
            service.requests.free([99], answers.put)
            answers.get(timeout=30)
            assert [result.state for result in world.history()] == ["hidden"]
            assert events.empty()
        service.give_back([hidden], by_names=False)
        assert isinstance(events.get(timeout=30), FileGivenBack)
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


class Breaks(ActionProcess):
    """Carries one group out, and meets a mistake of ours at the next."""

    def ask(self, wish: Wish, progress: Progress = silent) -> list[Result]:
        results = super().ask(wish, progress)
        self.ask = self._fail  # type: ignore[method-assign]
        return results

    def _fail(self, wish: Wish, progress: Progress = silent) -> list[Result]:
        raise ZeroDivisionError("a mistake")


def test_what_was_done_is_answered_whatever_comes_after(tmp_path: Path) -> None:
    """A mistake in a later group makes a refusal of that group alone."""
    world = make_world(str(tmp_path), sidecars=False)
    names = [world.gone, another(world, b"second.safetensors"), another(world, b"third.safetensors")]
    kept = copy_of(world.kept)
    steps = [Step(path, world.kept, "file", "delete", 7, "", copy_of(path), kept) for path in names]
    answers: queue.Queue[object] = queue.Queue()
    with serving(world, acting=Breaks, group=1) as (service, events):
        service.use(Config(watch=Watch(roots=(os.fsdecode(world.root),))))
        service.requests.apply(Plan("delete", steps, [], 21, None), answers.put, now=False)
        answer = answers.get(timeout=30)
        assert isinstance(answer, Applied)
        assert (answer.done, answer.refused) == (1, 2)
        by_path = {outcome.path: (outcome.state, outcome.text) for outcome in answer.results}
        assert by_path == {names[0]: ("done", ""), **dict.fromkeys(names[1:], ("refused", "a mistake"))}
        assert not any(service.dispatch.is_under_way(path) for path in names[1:])
        told = [type(events.get_nowait()) for _ in range(events.qsize())]
        told = [kind for kind in told if kind is not DedupeProgress]
        assert told == [ActionTaken, ActionRefused, ActionRefused]
    assert [os.path.exists(path) for path in names] == [False, True, True]


def test_a_folder_that_was_refused_is_not_under_way(tmp_path: Path) -> None:
    """Its files are read again, as any others."""
    world = make_world(str(tmp_path))
    folder = os.path.dirname(world.gone)
    whole = Step(world.gone, world.kept, "file", "delete", 7, "", copy_of(world.gone), copy_of(world.kept), folder)
    answers: queue.Queue[object] = queue.Queue()
    with serving(world) as (service, _):
        service.use(Config(watch=Watch(roots=(os.fsdecode(world.root),))))
        service.requests.apply(Plan("delete", [whole], [], 7, None), answers.put, now=False)
        answer = answers.get(timeout=30)
        assert isinstance(answer, Applied)
        assert "the whole folder is not the same" in answer.results[0].text
        assert not service.dispatch.is_under_way(world.gone)
        assert not service.dispatch.is_under_way(folder)


def test_that_the_catalogue_cannot_be_read_is_said(tmp_path: Path) -> None:
    """No file is known that may keep what is hidden: that is not to say that there is none."""
    world = make_world(str(tmp_path))
    number = world.apply("delete").id
    answers: queue.Queue[Freed | Undone] = queue.Queue()

    def keepers(entry: Entry, by_itself: bool) -> list[Side]:
        raise sqlite3.OperationalError("disk I/O error")

    with serving(world, keepers=keepers) as (service, _):
        service.requests.free([number], answers.put)
        answer = answers.get(timeout=30)
        assert (answer.done, answer.refused) == (0, 1)
        assert "the catalogue cannot be read" in answer.results[0].text
        assert "no other file" not in answer.results[0].text
    world.free(number)
    os.unlink(world.kept)
    with serving(world, keepers=keepers) as (service, _):
        service.requests.undo([number], answers.put)
        answer = answers.get(timeout=30)
        assert (answer.done, answer.refused) == (0, 1)
        assert "the catalogue cannot be read" in answer.results[0].text


def test_a_refusal_to_give_back_is_told_once(tmp_path: Path) -> None:
    """It is tried again and again, until there is nothing in the way."""
    world = make_world(str(tmp_path))
    hidden = Standing.of(world.apply("delete"), [])
    folder = os.path.dirname(world.gone)
    awake: queue.Queue[None] = queue.Queue()

    def give_back(service: Service) -> str:
        service.give_back([hidden], by_names=False)
        states: list[str] = []
        while not states:
            awake.get(timeout=30)
            states = [result.state for result in service.dispatch.take() if result.id]
        return states[0]

    with serving(world, lambda: awake.put(None)) as (service, events):
        os.rename(folder, folder + b" moved")
        os.symlink(folder + b" moved", folder)
        assert [give_back(service) for _ in range(3)] == ["refused"] * 3
        assert "symbolic link" in refused(events)
        os.unlink(folder)
        os.rename(folder + b" moved", folder)
        assert give_back(service) == "given_back"
        assert isinstance(events.get(timeout=30), FileGivenBack)
        assert events.empty()
    assert os.path.exists(world.gone)
