"""Jobs that the daemon runs, and their results. What a job takes and gives is `loracore.jobs`."""

from __future__ import annotations

from loracore.control.frame import Struct
from loracore.errors import JobFailed


class StartJob(Struct, frozen=True, tag="start-job"):
    """Have the daemon run the job `name` in a worker process; answered by `JobStarted` once it is queued.

    `parameters` is the MessagePack of the job's own struct; paths in it are absolute, on the daemon's machine.
    `summary` says to people what it is about, in a few words. The job ends when the connection does that it was
    asked for on, unless `detach` is given.
    """

    name: str
    parameters: bytes
    summary: str = ""
    detach: bool = False


class ListJobs(Struct, frozen=True, tag="jobs"):
    pass


class WaitJob(Struct, frozen=True, tag="wait-job"):
    """Answered, by its `JobState`, when the job has ended."""

    id: int


class CancelJob(Struct, frozen=True, tag="cancel-job"):
    """End a job, which may take some seconds. Answered, by its `JobState`, when it has ended."""

    id: int


class GetResult(Struct, frozen=True, tag="job-result"):
    """The result of a job that is done: about `PAGE_BYTES` of it, from `offset` on."""

    id: int
    offset: int = 0


class JobStarted(Struct, frozen=True, tag="job-started"):
    """`ahead`: jobs that run or wait before it."""

    id: int
    ahead: int = 0


class JobState(Struct, frozen=True, tag="job"):
    """A job, as it is. `state`: `waiting`, `running`, `done`, `failed` or `cancelled`.

    `done` of `total` is in units of the job's own; `total` is 0 where it is not known. `started` is when it was
    asked for; `seconds`, for how long it has run. `code` says why it failed: `input` (its parameters or files),
    `unreadable` (a file is not there, or not for the daemon's user), `missing` (a package), `memory`, `crashed`,
    `too-large` (its result); `error` says it in words.
    `result_bytes` is None where there is no result, or not any more.
    """

    id: int
    name: str
    summary: str
    state: str
    done: float
    total: float
    what: str
    started: str
    seconds: float
    error: str = ""
    code: str = ""
    result_bytes: int | None = None


class Jobs(Struct, frozen=True, tag="jobs"):
    """All that wait or run, and those that ended lately, by id."""

    jobs: list[JobState]


class JobResult(Struct, frozen=True, tag="job-result"):
    """A part of a result, MessagePack of the job's own struct when joined; `total` is the size of all of it."""

    id: int
    offset: int
    total: int
    part: bytes


JobRequest = StartJob | ListJobs | WaitJob | CancelJob | GetResult
JobAnswer = JobStarted | JobState | Jobs | JobResult


def check_ended(state: JobState) -> None:
    """Raises JobFailed for a job that has no result."""
    if state.state == "cancelled":
        raise JobFailed(f"job {state.id}, {state.name}, was cancelled", "cancelled")
    if state.state != "done":
        raise JobFailed(state.error, state.code)
