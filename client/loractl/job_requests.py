"""What clients ask about jobs: a row for each method, as in `loractl.session`. No I/O.

The methods that are called as a job take the fields of its parameters and give its result. They follow from its
SPEC, and one of another package is done by `run`.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

import msgspec

from loracore import control
from loracore.control.jobs import check_ended
from loracore.framing import unpacked
from loracore.jobs import (
    bake,
    compare,
    convert,
    edit,
    extract,
    hashes,
    importance,
    merge,
    metadata,
    pca,
    plot,
    report,
    resize,
    spectrum,
)
from loracore.jobs.change import Writing
from loracore.jobs.job import P, R, Spec, encoded
from loracore.paths import AnyPath, absolute
from loractl.steps import Hear, Method, Steps, answered, ask

A = ParamSpec("A")
S = TypeVar("S", bound=msgspec.Struct)
#: Where a result is written: also a path alone.
Output = AnyPath | Writing


@overload
def of_job(spec: Spec[Concatenate[bytes, Writing, A], P, R]) -> Method[Concatenate[AnyPath, Output, A], R]: ...
@overload
def of_job(spec: Spec[Concatenate[bytes, A], P, R]) -> Method[Concatenate[AnyPath, A], R]: ...
@overload
def of_job(spec: Spec[A, P, R]) -> Method[A, R]: ...
def of_job(spec: Spec[..., P, R]) -> Any:
    """A method that has a job done. Paths are of the daemon's machine, and made absolute."""

    def row(client: JobRequests, *args: Any, **fields: Any) -> Steps[R]:
        return run(spec, with_paths(spec.parameters(*args, **fields)), "", None, client._timeout)

    row.__name__, row.__doc__ = spec.name, f"{spec.help}\n\n{spec.parameters.__doc__}"
    fields = signature(spec.parameters).parameters.values()
    row.__signature__ = Signature([Parameter("self", Parameter.POSITIONAL_ONLY), *fields])  # type: ignore[attr-defined]
    return answered(row)


class JobRequests:
    """The rows."""

    #: Seconds for each answer that is given at once.
    _timeout: float | None

    @answered
    def start_job(
        self, name: str, parameters: bytes, summary: str = "", *, detach: bool = False
    ) -> Steps[control.JobStarted]:
        """Have the daemon run a job. `parameters` is the MessagePack of its struct, with absolute paths.

        It ends when this client is closed or its process ends, unless it is told to `detach`.
        `run` does all of it, by structs; `loractl.jobs.run_job` also where there is no daemon.
        """
        return ask(control.StartJob(name, parameters, summary, detach), control.JobStarted, self._timeout)

    @answered
    def jobs(self) -> Steps[list[control.JobState]]:
        """All that wait or run, and those that ended lately."""
        return (yield from ask(control.ListJobs(), control.Jobs, self._timeout)).jobs

    @answered
    def wait_job(
        self,
        id: int,
        *,
        progress: Callable[[control.JobProgress], None] | None = None,
        timeout: float | None = None,
    ) -> Steps[control.JobState]:
        """Return when a job has ended, however it did. `progress` is called with how far it is."""
        return wait_job(id, progress, timeout, self._timeout)

    @answered
    def job_result(self, id: int) -> Steps[bytes]:
        """The result of a job that is done: the MessagePack of its struct."""
        return job_result(id, self._timeout)

    @answered
    def cancel_job(self, id: int, *, timeout: float | None = None) -> Steps[control.JobState]:
        """End a job, and return when it has ended."""
        return ask(control.CancelJob(id), control.JobState, timeout)

    hashes = of_job(hashes.SPEC)
    metadata = of_job(metadata.SPEC)
    importance = of_job(importance.SPEC)
    spectrum = of_job(spectrum.SPEC)
    pca = of_job(pca.SPEC)
    plot = of_job(plot.SPEC)
    resize = of_job(resize.SPEC)
    merge = of_job(merge.SPEC)
    convert = of_job(convert.SPEC)
    edit = of_job(edit.SPEC)
    bake = of_job(bake.SPEC)
    compare = of_job(compare.SPEC)
    extract = of_job(extract.SPEC)
    report = of_job(report.SPEC)


def run(
    spec: Spec[..., P, R],
    parameters: P,
    summary: str,
    progress: Callable[[control.JobProgress], None] | None,
    short: float | None,
) -> Steps[R]:
    """Begin a job and wait for its result. Raises JobFailed. `short`: as of `wait_job`."""
    started = yield from ask(control.StartJob(spec.name, encoded(parameters), summary), control.JobStarted, short)
    check_ended((yield from wait_job(started.id, progress, None, short)))
    return unpacked((yield from job_result(started.id, short)), spec.result)


def wait_job(
    id: int, progress: Callable[[control.JobProgress], None] | None, timeout: float | None, short: float | None
) -> Steps[control.JobState]:
    """`short`: the time limit for what is answered at once."""
    if progress is None:
        return (yield from ask(control.WaitJob(id), control.JobState, timeout))
    call = progress
    hear = Hear(control.JobProgress, lambda event: call(event) if event.id == id else None)
    # How far it was before its events are heard.
    for job in (yield from ask(control.ListJobs(), control.Jobs, short, hear)).jobs:
        if job.id == id and job.state == "running":
            call(control.JobProgress(id, job.done, job.total, job.what))
    return (yield from ask(control.WaitJob(id), control.JobState, timeout, hear))


def job_result(id: int, timeout: float | None) -> Steps[bytes]:
    result = bytearray()
    while True:
        part = yield from ask(control.GetResult(id, len(result)), control.JobResult, timeout)
        result += part.part
        if len(result) >= part.total or not part.part:
            return bytes(result)


def with_paths(parameters: S) -> S:
    """Parameters as they travel: paths, their only bytes, are absolute, whatever they were given as."""
    fields = msgspec.structs.fields(parameters)
    changed = {field.name: _sent(field.type, getattr(parameters, field.name)) for field in fields}
    return msgspec.structs.replace(parameters, **changed)


def _sent(kind: Any, value: Any) -> Any:
    if kind is bytes:
        return absolute(value)
    if kind == tuple[bytes, ...]:
        return tuple(map(absolute, value))
    if kind is Writing:
        return with_paths(value if isinstance(value, Writing) else Writing(value))
    return value
