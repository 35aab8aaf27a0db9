"""Lets one tool search one corpus: warm, cold, with its memory and reads, and scores what it says."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.measure import Measurement, bytes_read_under, can_drop_caches, drop_caches, run
from bench.peers import Answer, Tool, loractl
from bench.truth import Truth, score


@dataclass(frozen=True)
class Row:
    """One line of a table. Times in seconds, sizes in bytes; None, or 0 for memory, where not measured.

    `bytes_read` is what system calls read of the corpus's files (and, for a tool that maps some, what it says
    it loaded of those), `reported` what the tool itself says, `excess` the former over the lower bound.
    """

    corpus: str
    tool: str
    warm: float
    cold: float | None
    peak_bytes: int
    bytes_read: int
    reported: int
    excess: float
    found: int
    missed: int
    wrong: int


@dataclass(frozen=True)
class Plan:
    """How often: `runs` warm runs whose median counts, `cold_runs` with the page cache dropped before."""

    runs: int = 3
    cold_runs: int = 1


class ToolFailedError(RuntimeError):
    """A tool ended with an error; the message has its command and what it said."""


def compete(tool: Tool, truth: Truth, plan: Plan, *, prepared: Tool | None = None) -> Row:
    """Measure `tool` on a corpus. `prepared` runs before it in the same scratch folder, unmeasured."""
    with _scratch() as scratch:
        empty = os.path.join(scratch, "nothing")
        os.mkdir(empty)
        bytes_read = _bytes_read(tool, truth, prepared)
        first, answer = _search(tool, truth.folder, prepared=prepared, memory=True)
        warm = [_search(tool, truth.folder, prepared=prepared)[0].seconds for _ in range(plan.runs)]
        cold = None
        if can_drop_caches() and plan.cold_runs:
            cold = statistics.median(_cold(tool, truth, empty, prepared) for _ in range(plan.cold_runs))
    result = score(truth, answer.sets)
    if bytes_read is None:
        bytes_read = first.bytes_read
    if tool.mapped:
        bytes_read += answer.bytes_read
    return Row(
        corpus=truth.name,
        tool=tool.name,
        warm=statistics.median(warm),
        cold=cold,
        peak_bytes=first.peak_bytes,
        bytes_read=bytes_read,
        reported=answer.bytes_read,
        excess=bytes_read / truth.lower_bound,
        found=result.found,
        missed=result.missed,
        wrong=result.wrong,
    )


def compete_again(truth: Truth, plan: Plan) -> Row:
    """A second `loractl scan` of an unchanged folder, in the state folder that the first one left."""
    return compete(loractl(again=True), truth, plan, prepared=loractl())


def _bytes_read(tool: Tool, truth: Truth, prepared: Tool | None) -> int | None:
    with _scratch() as scratch:
        if prepared is not None:
            _once(prepared, truth.folder, scratch)
        return bytes_read_under(truth.folder, tool.command(truth.folder, scratch), cwd=scratch)


def _cold(tool: Tool, truth: Truth, empty: str, prepared: Tool | None) -> float:
    with _scratch() as scratch:
        if prepared is not None:
            _once(prepared, truth.folder, scratch)
        drop_caches()
        # The data shall be cold, not the program: a search of nothing brings it back.
        _search(tool, empty)
        return _once(tool, truth.folder, scratch)[0].seconds


def _search(
    tool: Tool, folder: str, *, prepared: Tool | None = None, memory: bool = False
) -> tuple[Measurement, Answer]:
    with _scratch() as scratch:
        if prepared is not None:
            _once(prepared, folder, scratch)
        return _once(tool, folder, scratch, memory=memory)


def _once(tool: Tool, folder: str, scratch: str, *, memory: bool = False) -> tuple[Measurement, Answer]:
    command = tool.command(folder, scratch)
    measurement = run(command, cwd=scratch, memory=memory)
    if measurement.status:
        said = measurement.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ToolFailedError(f"{' '.join(command)} ended with {measurement.status}: {said}")
    return measurement, tool.parse(measurement.stdout, scratch)


@contextmanager
def _scratch() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="bench-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
