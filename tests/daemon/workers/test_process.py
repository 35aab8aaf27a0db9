"""A helper process is started, asked, heard and ended in one way, whatever it does (SPEC section 11)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import psutil
import pytest

import tests
from lorad.workers.backoff import Backoff
from lorad.workers.process import HelperProcess
from tests.daemon.workers.program import TEXTS, Text

_ROOT = str(Path(tests.__file__).parent.parent)
SECONDS = 30


class Start(Protocol):
    """Starts the program."""

    def __call__(self, how: str, longest: int = 1 << 20) -> HelperProcess[Text]: ...


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def started(how: str, longest: int = 1 << 20) -> HelperProcess[Text]:
            made = HelperProcess(
                "tests.daemon.workers.program",
                [how],
                words=TEXTS,
                longest=longest,
                environment={"PYTHONPATH": _ROOT},
            )
            stack.callback(made.end, 0)
            return made

        yield started


def test_it_is_told_for_how_long_others_had_its_processor(start: Start) -> None:
    """One that is as busy as it can be, on one processor with another one that comes first."""
    processor = min(os.sched_getaffinity(0))
    first, last = start("busy"), start("busy")
    for helper, nice in ((first, 0), (last, 19)):
        process = psutil.Process(helper._process.pid)
        process.cpu_affinity([processor])
        process.nice(nice)
    deadline = time.monotonic() + SECONDS
    while last.starved < 0.5:
        assert time.monotonic() < deadline
        assert not last.has_ended(0.05)
    last.kill()
    last.end()
    assert last.starved == 0


def test_it_answers_until_there_is_no_more_to_do(start: Start) -> None:
    """What it prints and reads by accident does not get between the messages."""
    helper = start("echo")
    words = helper.words()
    for text in ("one", "two", "three"):
        helper.send(Text(text))
        assert next(words) == Text(text)
    assert not helper.has_ended()
    helper.end()
    assert helper.status == 0
    helper.send(Text("too late"))
    helper.kill()
    helper.end()


def test_one_that_does_not_read_is_killed_while_it_is_written_to(start: Start) -> None:
    """The thread that writes goes on."""
    helper = start("deaf")
    assert next(helper.words()) == Text("ready")
    writer = threading.Thread(target=helper.send, args=(Text("x" * (8 << 20)),))
    writer.start()
    helper.kill()
    writer.join(SECONDS)
    assert not writer.is_alive()
    assert list(helper.words()) == []
    assert helper.has_ended(SECONDS)
    helper.end()
    assert helper.status == -signal.SIGKILL


def test_one_that_does_not_end_is_killed_with_all_that_it_started(start: Start) -> None:
    helper = start("stubborn")
    child = psutil.Process(int(next(helper.words()).text))
    helper.end(0.1)
    assert helper.status == -signal.SIGKILL
    assert psutil.wait_procs([child], SECONDS)[1] == []


def test_a_word_beyond_its_bound_is_its_last(start: Start) -> None:
    helper = start("echo", longest=100)
    helper.send(Text("x" * 200))
    assert list(helper.words()) == []


def test_ended_ones_leave_no_descriptors(start: Start) -> None:
    before, count = len(os.listdir("/proc/self/fd")), 5
    for _ in range(count):
        start("echo").end()
    # Other threads may have opened some meanwhile.
    assert len(os.listdir("/proc/self/fd")) < before + count


def test_the_last_delay_holds_from_then_on() -> None:
    assert [Backoff.doubling(4.0, 30.0, at_once=2).after(failures) for failures in range(1, 8)] == [
        0, 0, 4, 8, 16, 30, 30,
    ]  # fmt: skip
    assert [Backoff(60.0, 600.0).after(failures) for failures in (1, 2, 3)] == [60, 600, 600]
