"""Jobs by a real daemon and a real client, and without a daemon: the same result (SPEC sections 4, 7 and 10)."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from loracore.control import JobEnded, JobProgress
from loracore.errors import FileError, JobFailed, LoraError, MissingPackage, NoDaemonError, UsageError
from loracore.jobs.change import Writing
from loracore.paths import absolute
from loractl import AsyncClient, Client
from loractl.commands.options import RunJob, runs_job
from loractl.jobs import Told, run_here, run_job
from tests.daemon.jobs.registering import register
from tests.daemon.jobs.samples import COMPLAIN, COUNT, Report, Task
from tests.daemon.jobs.serving import SECONDS, release
from tests.integration.running import Running
from tests.toolkit.change.files import NAMES, kohya

#: What a person would type, for a job of the samples.
_COMMAND = "from tests.integration.test_jobs import sample; sample(prog_name='sample')"


@pytest.fixture(autouse=True)
def registered_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(tmp_path / "site", monkeypatch)


@pytest.fixture
def daemon(tmp_path: Path, registered_jobs: None) -> Iterator[Running]:
    with Running(tmp_path, [], tables="[jobs]\nthreads = 2\nmemory_limit_mb = 512") as daemon:
        yield daemon


@pytest.fixture
def held(tmp_path: Path) -> Task:
    path = os.fsencode(tmp_path / "fifo")
    os.mkfifo(path)
    return Task(path=path)


@click.command()
@runs_job
@click.argument("name")
@click.option("--number", type=int, default=0)
@click.option("--path", default="")
def sample(run: RunJob, as_json: bool, name: str, number: int, path: str) -> None:
    """As the commands that run jobs are written."""
    task = Task(number, absolute(path) if path else b"")
    report = run(name, task, Report, summary=f"sample of {number}")
    click.echo(json.dumps([as_json, report.number, report.share, report.names, report.payload.hex()]))


def hold(client: Client, task: Task, *, detach: bool = False) -> int:
    """The number of a job that runs, and holds at its FIFO."""
    with client.events(["job-progress"]) as events:
        number = client.start_job("hold", msgspec.msgpack.encode(task), "at the door", detach=detach).id
        while True:
            event = events.next(SECONDS).event
            if isinstance(event, JobProgress) and event.id == number and event.done == 1:
                return number


def loractl(daemon: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    socket = ("--socket", str(daemon.runtime / "control.sock"))
    command = [sys.executable, "-m", "loractl.cli", *arguments, *socket]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_job_gives_the_same_there_and_here(daemon: Running) -> None:
    """With the same output of the command, by either way."""
    there = run_job("count", Task(500), Report, connect=daemon.client)
    here = run_here("count", Task(500), Report)
    assert msgspec.msgpack.encode(there) == msgspec.msgpack.encode(here)
    assert there.number == sum(range(500))
    socket = str(daemon.runtime / "control.sock")
    outputs = [
        CliRunner().invoke(sample, ["count", "--number", "500", "--json", *where], catch_exceptions=False).output
        for where in (["--socket", socket], ["--local"])
    ]
    assert outputs[0] == outputs[1] != ""
    with daemon.client() as client:
        assert [job.summary for job in client.jobs()] == ["", "sample of 500"], "and two were the daemon's"


def test_a_job_is_a_method_of_either_client(
    daemon: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the fields of its parameters, with paths of any kind; one of another package is run by its SPEC."""
    kohya(tmp_path / "style.safetensors")
    monkeypatch.chdir(tmp_path)
    heard: list[JobProgress] = []
    with daemon.client() as client:
        found = client.metadata("style.safetensors", values=True)
        assert found.file_info.path == absolute("style.safetensors")
        assert found.validation_info.is_valid
        assert client.resize("style.safetensors", Path("small.safetensors"), rank=1).written
        merged = client.merge(("style.safetensors", b"small.safetensors"), Writing(b"both.safetensors"), rank=1)
        assert [given.path for given in merged.inputs] == [
            absolute(f"{name}.safetensors") for name in ("style", "small")
        ]
        assert (tmp_path / "both.safetensors").exists()
        assert client.run(COUNT, Task(5), summary="five", progress=heard.append).number == 10
        with pytest.raises(JobFailed, match="/a/file: its header is cut off"):
            client.run(COMPLAIN, Task(path=b"/a/file"))

    async def body() -> None:
        async with AsyncClient(str(daemon.runtime / "control.sock")) as client:
            assert (await client.metadata("small.safetensors")).architecture_info.rank == 1
            assert (await client.run(COUNT, Task(5), progress=heard.append)).number == 10

    asyncio.run(body())
    assert all(event.id in (4, 7) for event in heard)


def test_a_job_runs_in_a_process_of_the_daemon(daemon: Running) -> None:
    report = run_job("look", Task(), Report, connect=daemon.client)
    assert report.number == 2
    assert report.names["pid"] != [os.getpid()]
    assert run_job("look", Task(), Report).names["pid"] == [os.getpid()], "and without one in ours"


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("complain", FileError, "/a/file: its header is cut off; get the file again"),
        ("lean", MissingPackage, "lean needs package_that_nobody_has: pip install --upgrade samples"),
        ("nothing", UsageError, "there is no job 'nothing'"),
    ],
)
def test_a_failure_says_the_same_there_and_here(
    daemon: Running, name: str, kind: type[LoraError], text: str
) -> None:
    """What the daemon cannot do, this process tries; then it is the one that complains."""
    task = Task(path=b"/a/file")
    with pytest.raises(kind) as here:
        run_here(name, task, Report)
    with pytest.raises(LoraError) as there:
        run_job(name, task, Report, connect=daemon.client)
    assert text in str(here.value)
    assert (str(there.value), there.value.exit_code) == (str(here.value), here.value.exit_code)


def test_what_the_daemon_may_not_read_is_read_here(
    daemon: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the client's user; the daemon's user is another one."""
    file = tmp_path / "mine"
    file.write_bytes(b"private")
    monkeypatch.setenv("LORAD_TEST_OWNER", "1")
    task = Task(path=os.fsencode(file), text="LORAD_TEST_OWNER")
    assert run_job("peruse", task, Report, connect=daemon.client).number == 7
    with daemon.client() as client:
        assert [job.code for job in client.jobs()] == ["unreadable"]


def test_a_crash_is_not_repeated_here(daemon: Running) -> None:
    """The worker dies, the job is failed, the daemon and this process go on."""
    with pytest.raises(JobFailed, match="die was killed") as failed:
        run_job("die", Task(), Report, connect=daemon.client)
    assert (failed.value.code, failed.value.exit_code) == ("crashed", 5)
    with pytest.raises(JobFailed, match="memory_limit_mb"):
        run_job("devour", Task(100), Report, connect=daemon.client)
    assert not daemon.ended()


def test_progress_is_heard(daemon: Running, held: Task) -> None:
    """There and here, and from a job that told it before anybody listened."""
    heard: list[tuple[float, float, str]] = []

    def told(done: float, total: float, what: str) -> None:
        heard.append((done, total, what))
        if done == 1 and len(heard) < 100:
            heard.extend([(0, 0, "let go")] * 100)
            release(held)

    for connect in (daemon.client, None):
        heard.clear()
        listener: Told = told
        assert run_job("hold", held, Report, connect=connect, told=listener).number == 2
        assert (1, 3, "holding") in heard


def test_a_detached_job_survives_its_client(daemon: Running, held: Task) -> None:
    """Another one finds it, waits for it and fetches its result."""
    with daemon.client() as client:
        number = hold(client, held, detach=True)
    with daemon.client() as client:
        (job,) = client.jobs()
        assert (job.id, job.state, job.summary, job.what) == (number, "running", "at the door", "holding")
        heard: list[JobProgress] = []

        def progress(event: JobProgress) -> None:
            if not heard:
                release(held)
            heard.append(event)

        assert client.wait_job(number, progress=progress, timeout=SECONDS).state == "done"
        assert heard[0] == JobProgress(number, 1, 3, "holding"), "what was told before is told again"
    with daemon.client() as client:
        assert msgspec.msgpack.decode(client.job_result(number), type=Report).number == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_job_ends_with_its_client(daemon: Running, held: Task, number: signal.Signals) -> None:
    """However the client ended, also one that waits for its turn; what it did is cleaned up."""
    with daemon.client() as client, client.events(["job-progress", "job-ended"]) as events:
        process = _typed(daemon, "hold", held)
        _until(events, JobProgress)
        other = _typed(daemon, "stubborn", held)
        while len(client.jobs()) < 2:
            pass
        for each in (other, process):
            each.send_signal(number)
            each.wait()
        assert {_until(events, JobEnded).state for _ in range(2)} == {"cancelled"}
        assert Path(os.fsdecode(held.path + b".ended")).exists()


def test_a_stopped_client_keeps_its_job(daemon: Running, held: Task) -> None:
    """Ctrl-Z is no end: the job goes on, and its result is there when the client does."""
    with daemon.client() as client, client.events(["job-progress", "job-ended"]) as events:
        process = _typed(daemon, "hold", held)
        _until(events, JobProgress)
        process.send_signal(signal.SIGSTOP)
        release(held)
        assert _until(events, JobEnded).state == "done"
        process.send_signal(signal.SIGCONT)
        assert process.wait(SECONDS) == 0


def test_a_command_may_detach_its_job(daemon: Running, held: Task) -> None:
    """It tells the number and returns; the job goes on. Without a daemon that is an error, not work done here."""
    socket = str(daemon.runtime / "control.sock")
    there = ["hold", "--path", os.fsdecode(held.path), "--detach"]
    found = CliRunner().invoke(sample, [*there, "--socket", socket, "--json"], catch_exceptions=False)
    assert (found.exit_code, json.loads(found.stdout)) == (0, {"id": 1})
    with daemon.client() as client:
        release(held)
        assert client.wait_job(1, timeout=SECONDS).state == "done"
    assert CliRunner().invoke(sample, [*there, "--local"]).exit_code == 2
    alone = CliRunner().invoke(sample, [*there, "--socket", f"{socket}.not"])
    assert isinstance(alone.exception, NoDaemonError)


def test_a_quick_look_does_not_wait_for_a_long_job(daemon: Running, held: Task, tmp_path: Path) -> None:
    """`metadata` is answered while another job runs, however long."""
    file = kohya(tmp_path / "style.safetensors")
    with daemon.client() as client:
        hold(client, held)
        assert loractl(daemon, "metadata", str(file)).returncode == 0
        assert [job.state for job in client.jobs()] == ["running", "done"]
        release(held)


def test_ctrl_c_cancels_the_job(daemon: Running, held: Task) -> None:
    """With exit status 130, as for every command."""
    with daemon.client() as client, client.events(["job-progress", "job-ended"]) as events:
        process = _typed(daemon, "hold", held)
        _until(events, JobProgress)
        process.send_signal(signal.SIGINT)
        assert _until(events, JobEnded).state == "cancelled"
        process.wait(SECONDS)
        assert Path(os.fsdecode(held.path + b".ended")).exists()


def test_who_looks_sees_how_far_it_is(daemon: Running, held: Task) -> None:
    """On standard error, whether the daemon does it or this process; the result is alone on standard output."""
    socket = str(daemon.runtime / "control.sock")
    for where in (["--socket", socket], ["--local"]):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        arguments = ["hold", "--path", os.fsdecode(held.path), *where]
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *arguments], stdout=subprocess.PIPE, stderr=theirs
        )
        os.close(theirs)
        seen = b""
        while b"hold: holding" not in seen or b"33%" not in seen:
            seen += os.read(ours, 4096)
        release(held)
        assert process.communicate(timeout=SECONDS)[0].startswith(b"[false, 2,")
        os.close(ours)


def test_a_cancelled_job_is_told_to_who_waits(daemon: Running, held: Task) -> None:
    """`loractl jobs` lists it, `loractl cancel` ends it, by somebody else."""
    raised: list[LoraError] = []

    def wait() -> None:
        try:
            run_job("hold", held, Report, connect=daemon.client)
        except LoraError as error:
            raised.append(error)

    with daemon.client() as client, client.events(["job-progress"]) as events:
        thread = threading.Thread(target=wait)
        thread.start()
        _until(events, JobProgress)
    listed = json.loads(loractl(daemon, "jobs", "--json").stdout)["jobs"]
    assert [(job["id"], job["name"], job["state"]) for job in listed] == [(1, "hold", "running")]
    assert "holding" in loractl(daemon, "jobs").stdout
    ended = loractl(daemon, "cancel", "1")
    assert (ended.returncode, ended.stderr) == (0, "job 1, hold: cancelled\n")
    thread.join(SECONDS)
    assert [str(error) for error in raised] == ["job 1, hold, was cancelled"]
    assert loractl(daemon, "cancel", "7").returncode == 2
    done = run_job("count", Task(1), Report, connect=daemon.client)
    assert done.number == 0
    ended = loractl(daemon, "cancel", "2", "--json")
    assert (ended.returncode, json.loads(ended.stdout)["state"]) == (5, "done")


def test_a_job_that_cannot_be_computed_is_refused_there(daemon: Running, tmp_path: Path) -> None:
    """In one line that names file and layer, with exit status 2; the daemon goes on with the next one."""
    file = kohya(tmp_path / "style.safetensors")
    layers = load_file(file)
    name = f"{NAMES[0]}.lora_up.weight"
    layers[name][0, 0] = np.nan
    save_file(layers, file)
    for command in (["resize", str(file), "--rank", "2"], ["merge", str(file), str(file)]):
        ran = loractl(daemon, *command, "-o", str(tmp_path / "out.safetensors"))
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith(f"loractl: {file}: layer {name!r} holds 1 NaN")
        assert ran.stderr.count("\n") == 1
    with daemon.client() as client:
        assert [job.state for job in client.jobs()] == ["failed", "failed"]


@pytest.mark.parametrize("name", ["hold", "stubborn"])
def test_a_killed_daemon_takes_its_worker_along(daemon: Running, held: Task, name: str) -> None:
    """Whether the job hears or not; who waits is told."""
    with daemon.client() as client, client.events(["job-progress"]) as events:
        client.start_job(name, msgspec.msgpack.encode(held))
        _until(events, JobProgress)
        worker = daemon.child("lorad.workers.worker")
        family = [worker, *worker.children(recursive=True)]
        os.kill(daemon.pid, signal.SIGKILL)
        with pytest.raises(NoDaemonError):
            client.wait_job(1)
    assert psutil.wait_procs(family, SECONDS)[1] == []
    assert daemon.wait() == -signal.SIGKILL
    daemon.start()


def test_a_stopped_daemon_ends_its_job(daemon: Running, held: Task) -> None:
    with daemon.client() as client:
        hold(client, held)
    assert daemon.stop() == 0
    assert Path(os.fsdecode(held.path + b".ended")).exists(), "it could clean up"
    daemon.start()


def test_a_daemon_that_ends_meanwhile_is_told_not_replaced(daemon: Running, held: Task) -> None:
    """The work is not begun a second time without a word."""
    raised: list[Exception] = []

    def wait() -> None:
        try:
            run_job("hold", held, Report, connect=daemon.client)
        except LoraError as error:
            raised.append(error)

    with daemon.client() as client, client.events(["job-progress"]) as events:
        thread = threading.Thread(target=wait)
        thread.start()
        _until(events, JobProgress)
    os.kill(daemon.pid, signal.SIGKILL)
    thread.join(SECONDS)
    assert [type(error) for error in raised] == [NoDaemonError]
    assert daemon.wait() == -signal.SIGKILL
    daemon.start()


def test_a_daemon_that_is_named_and_not_there_is_told(tmp_path: Path) -> None:
    """Who names none gets the work done here."""
    there = ["count", "--number", "3", "--socket", str(tmp_path / "nobody.sock")]
    assert isinstance(CliRunner().invoke(sample, there).exception, NoDaemonError)
    here = CliRunner().invoke(sample, ["count", "--number", "3"], env={"LORAD_SOCKET": str(tmp_path / "nobody")})
    assert json.loads(here.output)[1] == 3


def test_a_job_is_followed_by_asyncio(daemon: Running, held: Task) -> None:
    """`async for` over its states, cancelling, and results."""

    async def body() -> None:
        async with AsyncClient(str(daemon.runtime / "control.sock")) as client:
            started = await client.start_job("hold", msgspec.msgpack.encode(held))
            states = []
            async for job in client.follow_job(started.id):
                states.append(job)
                if job.done == 1 and len(states) > 0 and job.state == "running":
                    await asyncio.to_thread(_release_once, held, states)
            assert [states[-1].state, states[-1].id] == ["done", started.id]
            assert any(job.what == "holding" for job in states)
            report = msgspec.msgpack.decode(await client.job_result(started.id), type=Report)
            assert report.number == 2
            assert [job.state async for job in client.follow_job(started.id)] == ["done"]
            again = await client.start_job("hold", msgspec.msgpack.encode(held))
            assert (await client.cancel_job(again.id)).state == "cancelled"
            assert [job.state for job in await client.jobs()] == ["done", "cancelled"]

    asyncio.run(body())


def _release_once(task: Task, states: list[Any]) -> None:
    if sum(job.done == 1 for job in states) == 1:
        release(task)


def _typed(daemon: Running, name: str, task: Task) -> subprocess.Popen[bytes]:
    """The command of a job, by itself."""
    socket = str(daemon.runtime / "control.sock")
    arguments = [name, "--path", os.fsdecode(task.path), "--socket", socket]
    return subprocess.Popen([sys.executable, "-c", _COMMAND, *arguments], stdout=subprocess.DEVNULL)


def _until(events: Any, kind: type[Any]) -> Any:
    """The next event of a kind; of progress, one that the job itself told."""
    while True:
        event = events.next(SECONDS).event
        if isinstance(event, kind) and getattr(event, "done", 1):
            return event
