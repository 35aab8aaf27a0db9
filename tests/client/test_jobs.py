"""What people see of jobs, and how a command has one done."""

from __future__ import annotations

import os
import signal
from typing import Any

import msgspec
import pytest

from loracore.control import JobEnded, JobProgress, JobStarted, JobState
from loracore.errors import MissingPackage
from loracore.paths import absolute
from loractl.commands import jobs
from loractl.commands.events import _text
from loractl.jobs import run_job

STATE = JobState(3, "importance", "a.safetensors", "running", 1, 4, "unet", "2026-11-21T00:00:00.000Z", 65.0)


class Nothing(msgspec.Struct):
    pass


class Daemon:
    """One that is interrupted while it answers `start_job`, or `wait_job`."""

    def __init__(self, interrupted: str) -> None:
        self.interrupted = interrupted
        self.cancelled: list[int] = []

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def start_job(self, *_: Any) -> JobStarted:
        if self.interrupted == "start_job":
            os.kill(os.getpid(), signal.SIGINT)
        return JobStarted(7)

    def wait_job(self, number: int, **_: Any) -> JobState:
        assert self.interrupted == "wait_job"
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError

    def cancel_job(self, number: int) -> None:
        self.cancelled.append(number)


def test_a_list_tells_what_runs_and_why_others_failed() -> None:
    failed = msgspec.structs.replace(STATE, id=4, state="failed", error="no \x1bfile", summary="")
    assert [list(row) for row in jobs.rows([STATE, failed])] == [
        ["3", "importance", "running", "25%", "1 min 5 s", "a.safetensors: unet"],
        ["4", "importance", "failed", "", "1 min 5 s", "no \\x1bfile"],
    ]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (JobProgress(3, 1, 4, "unet"), "job 3 25% unet"),
        (JobProgress(3, 0, 0, ""), "job 3"),
        (JobEnded(3, "done"), "job 3 done"),
    ],
)
def test_events_of_jobs_are_lines(event: JobProgress | JobEnded, text: str) -> None:
    assert _text(event) == text


@pytest.mark.parametrize("when", ["start_job", "wait_job"])
def test_ctrl_c_cancels_whenever_it_comes(when: str) -> None:
    """Also before the daemon has said which number the job has."""
    daemon: Any = Daemon(when)
    with pytest.raises(KeyboardInterrupt):
        run_job("importance", Nothing(), Nothing, connect=lambda: daemon)
    assert daemon.cancelled == [7]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_job_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    with pytest.raises(MissingPackage, match=r"pip install 'lorad\[toolkit\]'"):
        run_job("importance", Nothing(), Nothing)


def test_paths_in_parameters_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Names that are not UTF-8 too."""
    monkeypatch.chdir(tmp_path)
    assert absolute("a/../b") == os.fsencode(tmp_path) + b"/b"
    assert absolute(b"\xff") == os.fsencode(tmp_path) + b"/\xff"
