"""Going through the modules of a file on a few threads, leaving out what cannot be analysed and saying so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Generic, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from loracore.errors import FileError
from loracore.jobs.job import Context
from loracore.jobs.results import Fault
from lorakit.statistics.scan import Workspace

T = TypeVar("T")
R = TypeVar("R")


#: Of a factor's entries, of a scale and of ‖ΔW‖. No training leaves more, and below it no square of squares
#: overflows: LAPACK may run for ever on what is not finite.
LARGEST = 1e18
#: What algebra raises for numbers that it cannot go on with all the same, and what is said of them.
BEYOND = (ArithmeticError, np.linalg.LinAlgError)
BEYOND_TEXT = "holds numbers that cannot be computed with; take a checkpoint from before that"


class Unfit(Exception):
    """A module that cannot be analysed; the text says why."""


class Survey(Generic[R]):
    """What came of each item, in the order of the file, and what was left out."""

    def __init__(self) -> None:
        self.results: dict[str, R] = {}
        self.faults: list[Fault] = []


def survey(
    items: Sequence[T],
    *,
    name: Callable[[T], str],
    weight: Callable[[T], float],
    work: Callable[[T, Workspace], R],
    context: Context,
) -> Survey[R]:
    """Do `work` on each item, the heaviest first. Each of the context's threads has a workspace of its own.

    Raises what `work` raises, but for Unfit and FileError, which become faults, and Cancelled. Then, and at
    Ctrl-C, what is being worked on is given up between two blocks.
    """
    found: dict[int, R] = {}
    faults: dict[int, str] = {}
    local = threading.local()
    stop = threading.Event()
    done, total = 0.0, sum(map(weight, items))
    order = sorted(range(len(items)), key=lambda index: -weight(items[index]))

    def one(index: int) -> R:
        if not hasattr(local, "workspace"):
            local.workspace = Workspace(stop)
        try:
            with np.errstate(all="ignore"):
                return work(items[index], local.workspace)
        except BEYOND as error:
            raise Unfit(f"it {BEYOND_TEXT}") from error

    with one_blas_thread(), ThreadPoolExecutor(max(1, context.threads)) as pool:
        running = {pool.submit(one, index): index for index in order}
        try:
            for future in as_completed(running):
                index = running[future]
                done += weight(items[index])
                try:
                    found[index] = future.result()
                except Unfit as error:
                    faults[index] = str(error)
                except FileError as error:
                    faults[index] = error.reason
                context.progress(done, total, name(items[index]))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    result = Survey[R]()
    result.results = {name(items[index]): found[index] for index in sorted(found)}
    result.faults = [Fault(name(items[index]), faults[index]) for index in sorted(faults)]
    return result


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """The threads here are over modules: below numpy there is one each, whatever the caller has set."""
    with threadpool_limits(1, "blas"):
        yield
