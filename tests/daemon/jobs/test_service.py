"""Jobs run in worker processes, in turn, and tell how they are (SPEC sections 4 and 11)."""

from __future__ import annotations

import os
import queue
import re
from pathlib import Path

import msgspec
import psutil
import pytest

from loracore.config import Jobs as Settings
from loracore.control import (
    Answer,
    CancelJob,
    GetResult,
    JobEnded,
    JobProgress,
    Jobs,
    JobStarted,
    JobState,
    ListJobs,
    Refusal,
    StartJob,
    WaitJob,
)
from loracore.jobs import job as finding
from loracore.jobs.job import Alone
from lorad.jobs import board
from lorad.jobs import service as module
from lorad.jobs.results import KeptResult
from tests.daemon.jobs.samples import Report, Task
from tests.daemon.jobs.serving import SECONDS, Service, release


def test_a_result_is_that_of_the_caller_s_own_process(service: Service) -> None:
    """Byte for byte: the same code, the same output."""
    task = msgspec.msgpack.encode(Task(1000))
    here = finding.work(finding.find("count"), task, Alone())
    state = service.run("count", Task(1000))
    assert (state.state, state.result_bytes) == ("done", len(here))
    assert msgspec.msgpack.encode(service.result(state.id)) == here


def test_a_job_tells_that_it_runs_how_far_it_is_and_that_it_ended(service: Service) -> None:
    task = service.fifo()
    number = service.start("hold", task)
    assert service.heard(number, 0) == JobProgress(number, 0, 0, "")
    assert service.heard(number, 1) == JobProgress(number, 1, 3, "holding")
    (state,) = service.ask(ListJobs(), Jobs).jobs
    assert (state.state, state.done, state.total, state.what) == ("running", 1, 3, "holding")
    assert (state.name, state.summary) == ("hold", "a sample")
    release(task)
    assert service.wait(number).state == "done"
    assert service.result(number).number == 2
    while not isinstance(event := service.events.get(timeout=SECONDS), JobEnded):
        pass
    assert event == JobEnded(number, "done")


def test_one_runs_at_a_time_in_the_order_of_asking(service: Service) -> None:
    task = service.fifo()
    first = service.start("hold", task)
    service.heard(first, 1)
    second = service.ask(StartJob("count", msgspec.msgpack.encode(Task(1))), JobStarted)
    third = service.ask(StartJob("count", msgspec.msgpack.encode(Task(2))), JobStarted)
    assert (second.ahead, third.ahead) == (1, 2)
    waited = service.asked(WaitJob(third.id))
    assert [job.state for job in service.ask(ListJobs(), Jobs).jobs] == ["running", "waiting", "waiting"]
    assert service.cancel(second.id).state == "cancelled", "one that waits is cancelled at once"
    release(task)
    assert waited.get(timeout=SECONDS) == service.wait(third.id)
    assert [job.state for job in service.ask(ListJobs(), Jobs).jobs] == ["done", "cancelled", "done"]


def test_a_cancelled_job_ends_by_itself_and_cleans_up(service: Service) -> None:
    """It hears it at its next word of progress."""
    task = service.fifo()
    number = service.start("hold", task)
    service.heard(number, 1)
    assert service.cancel(number).state == "cancelled"
    assert Path(os.fsdecode(task.path + b".ended")).read_bytes() == b"ended"
    assert isinstance(service.asked(GetResult(number)).get(timeout=SECONDS), Refusal)
    assert service.cancel(number).state == "cancelled", "asked again, it says so"


def test_a_job_that_begins_just_then_is_cancelled(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits no more, and has no process yet."""
    answers: list[queue.Queue[Answer]] = []

    class Cancels(KeptResult):
        def __init__(self, state_dir: str) -> None:
            answers.append(service.asked(CancelJob(1)))
            # Requests are seen to in their order.
            service.ask(ListJobs(), Jobs)
            super().__init__(state_dir)

    monkeypatch.setattr(module, "KeptResult", Cancels)
    service.start("hold", service.fifo())
    assert service.wait(1).state == "cancelled"
    answer = answers[0].get(timeout=SECONDS)
    assert isinstance(answer, JobState)
    assert answer.state == "cancelled"


def test_a_job_that_does_not_hear_is_killed_with_all_that_it_started(service: Service) -> None:
    number = service.start("stubborn", service.fifo())
    child = psutil.Process(int(service.heard(number, 1).what))
    parent = child.parent()
    assert parent is not None
    assert service.cancel(number).state == "cancelled"
    assert psutil.wait_procs([child, parent], SECONDS)[1] == []
    assert service.run("count", Task(3)).state == "done", "the next one runs"


def test_a_job_that_is_killed_is_told_as_failed(service: Service) -> None:
    state = service.run("die")
    assert (state.state, state.code) == ("failed", "crashed")
    assert "die was killed" in state.error
    assert service.run("count", Task(3)).state == "done"


def test_a_job_that_needs_too_much_memory_fails_alone(tmp_path: Path) -> None:
    """Within its limit it is left alone; above, the failure names the setting."""
    with Service(tmp_path, Settings(1, 256)) as service:
        assert service.run("devour", Task(4)).state == "done"
        state = service.run("devour", Task(100))
        assert (state.state, state.code) == ("failed", "memory")
        assert "devour needs more than the 256 MiB of [jobs] memory_limit_mb" in state.error
        service.jobs.use(Settings(1, 4096))
        assert service.run("devour", Task(20)).state == "done", "settings hold from the next job on"


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("blunder", "crashed", r"blunder has a mistake: ValueError: a blunder \\udcff; the daemon's log"),
        ("complain", "input", "/a/file: its header is cut off; get the file again"),
        ("peruse", "unreadable", "/a/file: No such file or directory"),
        ("lean", "missing", "lean needs package_that_nobody_has: pip install --upgrade samples"),
        ("hollow", "missing", "hollow needs package_that_nobody_has: pip install --upgrade samples"),
        ("gone", "input", "gone: .* is not there; install samples anew"),
        ("no_job", "input", "no_job: .* is no loracore.jobs.job.Job"),
    ],
)
def test_a_job_that_fails_says_why(service: Service, name: str, code: str, text: str) -> None:
    state = service.run(name, Task(path=b"/a/file"))
    assert (state.state, state.code, state.result_bytes) == ("failed", code, None)
    assert re.match(text, state.error), state.error


def test_wrong_parameters_are_told(service: Service) -> None:
    number = service.ask(StartJob("count", b"\xc1 nonsense"), JobStarted).id
    state = service.wait(number)
    assert (state.state, state.code) == ("failed", "input")
    assert "count: wrong parameters" in state.error


def test_what_a_job_prints_is_not_taken_for_its_words(service: Service) -> None:
    assert service.run("babble").state == "done"


def test_a_worker_keeps_within_its_bounds(service: Service) -> None:
    """The threads of the settings, none of the libraries' own, and others go first."""
    report = service.result(service.run("look").id)
    assert report.number == 2
    assert report.names["pools"] == [1, 1]
    assert report.names["nice"][0] >= 10
    assert report.names["pid"] != [os.getpid()]


@pytest.mark.parametrize("name", ["nothing", "x" * 1000, ""])
def test_an_unknown_job_is_refused(service: Service, name: str) -> None:
    refusal = service.ask(StartJob(name, b""), Refusal)
    assert refusal.code == "unknown-job"
    assert len(refusal.text) < 300


def test_a_job_of_ours_that_is_not_installed_names_the_command(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    assert "pip install 'lorad[toolkit]'" in service.ask(StartJob("importance", b""), Refusal).text
    assert "pip install 'lorad[train]'" in service.ask(StartJob("train", b""), Refusal).text


def test_a_large_result_comes_in_parts(service: Service) -> None:
    state = service.run("large", Task(5_000_000))
    assert service.result(state.id) == Report(0, payload=bytes(5_000_000))
    refusal = service.ask(GetResult(state.id, 6_000_000), Refusal)
    assert refusal.code == "malformed"


def test_a_result_beyond_what_is_kept_is_refused(service: Service) -> None:
    state = service.run("large", Task(257 << 20))
    assert (state.state, state.code) == ("failed", "too-large")


def test_old_results_are_dropped_when_there_are_too_many_bytes(tmp_path: Path) -> None:
    """The newest stay; that the job was done is remembered."""
    with Service(tmp_path, room=250_000) as service:
        first, second, third = (service.run("large", Task(100_000)).id for _ in range(3))
        assert [job.result_bytes is None for job in service.ask(ListJobs(), Jobs).jobs] == [True, False, False]
        assert service.ask(GetResult(first), Refusal).code == "not-found"
        assert len(service.result(second).payload) == len(service.result(third).payload) == 100_000


def test_a_state_folder_that_is_gone_fails_the_job(tmp_path: Path) -> None:
    with Service(tmp_path / "nowhere") as service:
        state = service.run("count")
        assert (state.state, state.code) == ("failed", "crashed")
        assert "nowhere" in state.error


def test_too_many_waiting_jobs_are_refused(service: Service) -> None:
    task = service.fifo()
    service.heard(service.start("hold", task), 1)
    for _ in range(board.WAITING):
        service.start("count")
    assert service.ask(StartJob("count", b"\x80"), Refusal).code == "busy"
    release(task)


def test_stopping_ends_what_runs(tmp_path: Path) -> None:
    """One that hears and one that does not; whoever waited is told nothing wrong."""
    with Service(tmp_path, grace=0.2) as service:
        number = service.start("stubborn", service.fifo())
        child = psutil.Process(int(service.heard(number, 1).what))
        waiting = service.start("count")
    assert psutil.wait_procs([child], SECONDS)[1] == []
    assert service.jobs._board.get(waiting) is not None


@pytest.mark.parametrize("request_", [WaitJob(7), GetResult(7)])
def test_a_job_that_is_not_there_is_told(service: Service, request_: WaitJob | GetResult) -> None:
    assert service.ask(request_, Refusal).code == "not-found"
