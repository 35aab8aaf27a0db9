"""The desk: one action after the other, whatever becomes of the process that takes them."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from lorad.dedupe.deputy import Deputy
from lorad.dedupe.desk import Desk

from loracore.config import Config, Watch
from loracore.control import (
    ActionRefused,
    ActionTaken,
    Answer,
    Applied,
    DedupeProgress,
    Event,
    Refusal,
    Savings,
    Undone,
)
from lorad.dedupe import desk as module
from lorad.dedupe.keeping import Copy
from lorad.dedupe.plan import Plan, make_plan
from lorad.dedupe.policy import Policy
from lorad.pipeline.protocol import Identity

SECONDS = 30


class Office:
    """A desk on real files, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "models"
        self.root.mkdir()
        self.state = folder / "state"
        self.events: queue.Queue[Event] = queue.Queue()
        self.relinked: list[tuple[Identity, Identity]] = []
        self.desk = Desk(str(self.state), self.events.put, lambda *change: self.relinked.append(change))
        self.desk.use(Config(watch=Watch(roots=(str(self.root),))))
        self.desk.start()

    def files(self, count: int, size: int = 5000) -> list[Path]:
        """So many files of the same bytes, the first of which is the oldest."""
        paths = [self.root / f"{number}.bin" for number in range(count)]
        paths[0].write_bytes(os.urandom(size))
        for number, path in enumerate(paths):
            if number:
                shutil.copyfile(paths[0], path)
            os.utime(path, ns=(number, number))
        return paths

    def plan(self, paths: list[Path], action: str = "delete") -> Plan:
        """As the catalogue would have it."""
        copies = [
            Copy((os.fsencode(path),), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
                 status.st_ctime_ns, b"same bytes")
            for path in paths for status in [path.stat()]
        ]  # fmt: skip
        return make_plan([copies], Policy(action=action), 0)

    def asked(self, ask: Callable[[Callable[[Answer], None]], None]) -> Answer:
        answers: queue.Queue[Answer] = queue.Queue()
        ask(answers.put)
        return answers.get(timeout=SECONDS)

    def apply(self, plan: Plan) -> Answer:
        return self.asked(lambda reply: self.desk.apply(plan, reply))

    def undo(self, *ids: int) -> Answer:
        return self.asked(lambda reply: self.desk.undo(ids or None, reply))

    def told(self) -> list[Event]:
        found = []
        while not self.events.empty():
            event = self.events.get()
            if not isinstance(event, DedupeProgress):
                found.append(event)
        return found


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    office.state.mkdir()
    yield office
    office.desk.stop(SECONDS)
    assert not psutil.Process().children(), "the worker outlived the desk"


def workers() -> list[psutil.Process]:
    return psutil.Process().children()


def test_a_plan_is_carried_out_and_told(office: Office) -> None:
    """An event for each action, and an answer that counts them."""
    paths = office.files(4)
    applied = office.apply(office.plan(paths))
    assert isinstance(applied, Applied)
    assert (applied.done, applied.refused, applied.bytes, applied.omitted) == (3, 0, 15_000, 0)
    assert [path.exists() for path in paths] == [True, False, False, False]
    assert [type(event) for event in office.told()] == [ActionTaken] * 3
    undone = office.undo()
    assert isinstance(undone, Undone)
    assert undone.done == 3
    assert all(path.read_bytes() == paths[0].read_bytes() for path in paths)


def test_after_a_link_was_taken_back_the_others_are_made(office: Office) -> None:
    """What cannot be replaced is refused alone; the catalogue hears what the kept file is now."""
    kept, fixed, free = office.files(3)
    if subprocess.run(["chattr", "+i", fixed], capture_output=True, check=False).returncode:
        pytest.skip("no file can be made immutable here")
    try:
        plan = office.plan([kept, fixed, free], "hardlink")
        answer = office.apply(plan)
    finally:
        subprocess.run(["chattr", "-i", fixed], check=True)
    assert isinstance(answer, Applied)
    assert (answer.done, answer.refused) == (1, 1)
    assert kept.samefile(free)
    told = list(office.relinked)
    assert [told[0][0], told[-1][1]] == [Identity(*plan.steps[0].keeper[1:6]), Identity.of(kept.stat())]
    assert all(one[1] == next_one[0] for one, next_one in pairwise(told))


def test_names_of_one_inode_go_one_after_the_other(office: Office) -> None:
    """Each step changes the ctime of the inode that the next one names; that is known as ours."""
    one, other = office.files(2)
    os.link(other, office.root / "other name.bin")
    copies = [
        Copy((os.fsencode(one),), *identity(one), b"same"),
        Copy((os.fsencode(other), os.fsencode(office.root / "other name.bin")), *identity(other), b"same"),
    ]
    applied = office.apply(make_plan([copies], Policy(action="hardlink"), 0))
    assert isinstance(applied, Applied)
    assert (applied.done, applied.refused) == (2, 0), applied.results
    assert one.stat().st_nlink == 3


def identity(path: Path) -> tuple[int, int, int, int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def test_what_changed_since_the_plan_is_refused(office: Office) -> None:
    """One line that names the file; the others are done."""
    paths = office.files(3)
    plan = office.plan(paths)
    paths[1].write_bytes(b"something new")
    applied = office.apply(plan)
    assert isinstance(applied, Applied)
    assert (applied.done, applied.refused) == (1, 1)
    assert str(paths[1]) in applied.results[0].text
    assert paths[1].read_bytes() == b"something new"
    assert [type(event) for event in office.told()] == [ActionRefused, ActionTaken]


def test_a_file_under_no_root_is_refused(office: Office) -> None:
    """The configuration may have changed since the plan was made."""
    plan = office.plan(office.files(2))
    office.desk.use(Config())
    applied = office.apply(plan)
    assert isinstance(applied, Applied)
    assert "no watched folder" in applied.results[0].text


def test_a_worker_that_was_killed_is_followed_by_another(office: Office) -> None:
    """Between two plans, nobody notices."""
    assert isinstance(office.apply(office.plan(office.files(2))), Applied)
    (worker,) = workers()
    worker.kill()
    worker.wait(SECONDS)
    paths = office.files(3)
    applied = office.apply(office.plan(paths))
    assert isinstance(applied, Applied)
    assert (applied.done, applied.refused) == (2, 0)


def test_a_worker_that_keeps_dying_is_not_asked_for_ever(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three deaths in a row end the plan, each of whose files is told with the reason."""
    starts = []

    def start_and_kill(deputy: Deputy, wish: object = None) -> None:
        starts.append(wish)
        start(deputy)
        (worker,) = workers()
        worker.kill()
        worker.wait(SECONDS)

    start = Deputy.start
    monkeypatch.setattr(Deputy, "start", start_and_kill)
    paths = office.files(50)
    applied = office.apply(office.plan(paths))
    assert isinstance(applied, Applied)
    assert (applied.done, applied.refused) == (0, 49)
    assert "keeps dying" in applied.results[-1].text
    assert len(starts) == 3
    assert all(path.exists() for path in paths)


def test_a_journal_that_cannot_be_used_is_told(office: Office) -> None:
    """Nothing is touched without it."""
    (office.state / "journal.sqlite").write_bytes(b"not a journal" * 100)
    paths = office.files(2)
    applied = office.apply(office.plan(paths))
    assert isinstance(applied, Applied)
    assert (applied.done, applied.refused) == (0, 1)
    assert "damaged" in applied.results[0].text
    assert all(path.exists() for path in paths)
    history: queue.Queue[object] = queue.Queue()
    office.desk.history(0, 10, history.put)
    assert isinstance(history.get(timeout=SECONDS), Refusal)


def test_history_and_savings_are_answered_while_something_is_done(office: Office) -> None:
    """They are read from the journal, not asked of who is busy."""
    assert isinstance(office.apply(office.plan(office.files(2))), Applied)
    (worker,) = workers()
    worker.send_signal(signal.SIGSTOP)
    answers: queue.Queue[Answer] = queue.Queue()
    office.desk.apply(office.plan(office.files(2)), answers.put)
    history: queue.Queue[object] = queue.Queue()
    office.desk.history(0, 10, history.put)
    assert len(history.get(timeout=SECONDS)) == 1  # type: ignore[arg-type]
    savings = office.asked(lambda reply: office.desk.savings(7, reply))
    assert savings == Savings(5000, 7, 0, {"delete": 5000}, 1)
    assert answers.empty()
    worker.send_signal(signal.SIGCONT)
    assert isinstance(answers.get(timeout=SECONDS), Applied)


def test_undoing_only_what_never_was_is_bad_input(office: Office) -> None:
    """Before anything was done, and after; beside others it is told with them."""
    assert isinstance(office.undo(7), Refusal)
    assert isinstance(office.apply(office.plan(office.files(2))), Applied)
    refusal = office.undo(7, 8)
    assert refusal == Refusal("not-found", "there is no action 7; see the history")
    undone = office.undo(7, 1)
    assert isinstance(undone, Undone)
    assert (undone.done, undone.refused) == (1, 1)


def test_an_idle_worker_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs no memory for the rest of the day."""
    monkeypatch.setattr(module, "_IDLE", 0.05)
    office = Office(tmp_path)
    office.state.mkdir()
    assert isinstance(office.apply(office.plan(office.files(2))), Applied)
    psutil.wait_procs(workers(), timeout=SECONDS)
    assert not workers()
    assert isinstance(office.undo(), Undone)
    office.desk.stop(SECONDS)


def test_a_desk_that_is_stopped_ends_a_long_plan(office: Office) -> None:
    """What is left of it is refused, not forgotten."""
    answers: queue.Queue[Answer] = queue.Queue()
    office.desk.apply(office.plan(office.files(200)), answers.put)
    assert isinstance(office.events.get(timeout=SECONDS), ActionTaken | DedupeProgress)
    office.desk.stop(SECONDS)
    applied = answers.get(timeout=SECONDS)
    assert isinstance(applied, Applied)
    assert applied.refused > 0
    assert "being stopped" in applied.results[0].text
