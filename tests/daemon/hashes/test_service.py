"""Files are hashed in the background, whatever they do to the process that reads them (SPEC sections 6 and 11)."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import tests
from loracore.jobs import hashes
from lorad.catalog import Identified
from lorad.hashes import service
from lorad.pipeline.protocol import Identity
from lorad.workers.backoff import Backoff
from tests.daemon.hashes import samples
from tests.daemon.hashes.serving import Core

_ROOT = str(Path(tests.__file__).parent.parent)
#: Not as long as a daemon would.
QUICK = service.Waits(again=0.05, backoff=Backoff.doubling(0.05, 3600.0, at_once=2))


@pytest.fixture(autouse=True)
def sample_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the workers do the job of the samples."""
    monkeypatch.setattr(hashes, "SPEC", replace(hashes.SPEC, place=f"{samples.__name__}:JOB"))
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([_ROOT, *([before] if before else [])]))


@pytest.fixture
def waits() -> service.Waits:
    return QUICK


@pytest.fixture
def core(tmp_path: Path, waits: service.Waits) -> Iterator[Core]:
    with Core(tmp_path / "state", waits) as core:
        yield core


def sha256(core: Core) -> dict[int, bytes | None]:
    return {hashed.file: hashed.found.sha256 for hashed in core.found}


def test_the_newest_comes_first_and_all_in_one_process(core: Core, tmp_path: Path) -> None:
    """Which is gone when there is no more to do."""
    files = [core.add(tmp_path / f"{number}", b"%d" % number) for number in range(20)]
    gone = core.add(tmp_path / "ignored", b"x", status="ignored")
    seen = set()
    core.until(lambda: seen.update(core.workers()) or len(core.found) == len(files))
    assert [hashed.file for hashed in core.found] == files[::-1]
    assert sha256(core) == {file: hashlib.sha256(b"%d" % number).digest() for number, file in enumerate(files)}, (
        f"and not {gone}"
    )
    assert len({process.pid for process in seen}) == 1
    core.until(lambda: not core.workers())


def test_a_file_that_kills_the_process_is_given_up(core: Core, tmp_path: Path) -> None:
    """After three deaths, for good; the others are hashed in between."""
    files = [core.add(tmp_path / name, name.encode()) for name in ("one", "poison", "two")]
    core.until(lambda: core.service.state.failed)
    deaths = [hashed.found.deaths for hashed in core.found if hashed.file == files[1]]
    assert deaths == [1, 2, 3]
    assert {file for file, hash in sha256(core).items() if hash} == {files[0], files[2]}
    assert "ended 3 processes" in core.complaints[-1]
    core.until(lambda: not core.workers())
    core.service.stop()
    with Core(tmp_path / "state", QUICK) as again:
        again.until(lambda: again.service.state.hashed == 2)
        assert (again.service.state.failed, again.service.state.waiting, again.found) == (1, 0, [])


def test_deaths_are_counted_over_restarts(core: Core, tmp_path: Path) -> None:
    file = core.add(tmp_path / "poison", b"x")
    core.catalog.hashes.save(file, Identified(deaths=service.DEATHS - 1))
    core.catalog.commit(new_generation=True)
    core.until(lambda: core.found)
    assert core.found[0].found.deaths == service.DEATHS
    assert core.found[0].found.error


@pytest.mark.parametrize("waits", [QUICK._replace(silence=2.0)])
def test_a_process_that_hangs_is_ended(core: Core, tmp_path: Path) -> None:
    """And no other: one that only gets no processor is not hanging."""
    files = [core.add(tmp_path / name, b"x") for name in ("fine", "endless")]
    core.until(lambda: core.service.state.failed and len(sha256(core)) == 2)
    assert sha256(core) == {files[0]: hashlib.sha256(b"x").digest(), files[1]: None}
    assert "silent" in core.complaints[0]


def test_a_failure_is_tried_a_few_times_and_ends_nothing(core: Core, tmp_path: Path) -> None:
    core.add(tmp_path / "sour", b"x")
    fine = core.add(tmp_path / "fine", b"x")
    core.until(lambda: core.complaints and core.found)
    assert core.complaints == [f"it is not hashed: {tmp_path / 'sour'}: it is sour; get it again"]
    assert list(sha256(core)) == [fine]
    core.until(lambda: not core.workers())


def test_files_that_were_given_up_and_are_gone_keep_nobody_waiting(core: Core, tmp_path: Path) -> None:
    """A newcomer that fails at first is tried again all the same."""
    sour = [core.add(tmp_path / f"sour{number}", b"x") for number in range(2)]
    core.until(lambda: len(core.complaints) == 2 and not core.workers())
    for file in sour:
        core.remove(file)
    shy = core.add(tmp_path / "shy", b"x")
    core.until(lambda: core.found)
    assert list(sha256(core)) == [shy]


def test_what_was_given_up_is_tried_again_when_the_configuration_is_read(core: Core, tmp_path: Path) -> None:
    """And so is a file that has the number of one that was given up: the catalogue gives them anew."""
    sour = core.add(tmp_path / "sour", b"x")
    core.until(lambda: core.complaints and not core.workers())
    core.service.use(True)
    core.until(lambda: len(core.complaints) == 2)
    core.remove(sour)
    core.take_number(sour)
    assert core.add(tmp_path / "fine", b"x") == sour
    core.until(lambda: core.found)
    assert sha256(core) == {sour: hashlib.sha256(b"x").digest()}


@pytest.mark.parametrize("waits", [QUICK._replace(retry=0.05)])
def test_a_process_that_cannot_be_started_is_not_the_files_fault(
    core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as trouble, and tried again; nothing is counted to the file."""
    executable = sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    file = core.add(tmp_path / "fine", b"x")
    core.until(lambda: len(core.complaints) > service.DEATHS)
    assert "cannot be started: No such file" in core.complaints[-1]
    assert core.found == []
    monkeypatch.setattr(sys, "executable", executable)
    core.until(lambda: core.found)
    assert [(hashed.file, hashed.found.deaths) for hashed in core.found] == [(file, 0)]


def test_a_file_that_is_another_one_now_has_no_hash(core: Core, tmp_path: Path) -> None:
    """What is found belongs to the identity that the catalogue has, or is not found."""
    core.busy = True
    path = tmp_path / "file"
    core.add(path, b"before")
    path.write_bytes(b"after!")
    core.busy = False
    core.until(lambda: core.complaints)
    assert "not the file that was asked for" in core.complaints[0]
    assert core.found == []


def test_a_file_that_may_be_written_to_unseen_waits() -> None:
    """Until its file system's clock has gone on: else a second write might leave its times as they are."""
    now = time.time_ns()
    for ctime, young in (
        (now, True),
        (now // 10**9 * 10**9, True),
        (now // 10**9 * 10**9 - 3 * 10**9, False),
        (now - 10**8 | 1, False),
        (now + 60 * 10**9, False),
    ):
        assert service._is_young(Identity(0, 0, 0, 0, ctime)) == young


def test_without_the_toolkit_it_says_what_to_install(core: Core, tmp_path: Path) -> None:
    """In one line, once; the next reading of the configuration tries again."""
    core.add(tmp_path / "lacking", b"x")
    core.until(lambda: core.service.state.trouble)
    assert core.service.state.trouble == "hashes needs package_that_nobody_has: pip install 'lorad[toolkit]'"
    assert len(core.complaints) == 1
    core.service.use(True)
    core.until(lambda: len(core.complaints) == 2)


def test_it_stands_still_while_others_work(core: Core, tmp_path: Path) -> None:
    """Jobs, and the core that reads or acts; and it goes on from there when they have ended."""
    path = tmp_path / "held"
    os.mkfifo(tmp_path / "held.fifo")
    core.add(path, b"x")
    core.until(core.workers)
    (worker,) = core.workers()
    for begin, end in (
        (lambda: core.service.turns.give_way(True), lambda: core.service.turns.give_way(False)),
        (lambda: setattr(core, "busy", True), lambda: setattr(core, "busy", False)),
    ):
        begin()
        core.until(lambda: worker.status() == psutil.STATUS_STOPPED)
        end()
        core.until(lambda: worker.status() != psutil.STATUS_STOPPED)
    (tmp_path / "held.fifo").write_bytes(b"go")
    core.until(lambda: core.found)
    assert core.found[0].found.sha256 == hashlib.sha256(b"x").digest()


def test_switched_off_it_ends_at_once_and_counts_nothing(core: Core, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "held.fifo")
    core.add(tmp_path / "held", b"x")
    core.until(core.workers)
    core.service.use(False)
    core.until(lambda: not core.workers())
    assert (core.found, core.complaints) == ([], [])
    assert not core.service.state.on_arrival
