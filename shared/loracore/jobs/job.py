"""What a job is, which jobs are installed, and what to do about one that is not.

A job has typed parameters and a typed result, says how far it is, and ends when it is asked to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from loracore.errors import LoraError, MissingPackage, UsageError
from loracore.framing import unpacked

#: Implementations are entry points of this group; their names are those of the commands.
GROUP = "lorad.jobs"

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


class Cancelled(LoraError):
    """Whoever wanted the job does not want it any more."""


class Context(Protocol):
    """What a running job may use of the process that it runs in."""

    def progress(self, done: float, total: float, what: str = "") -> None:
        """Tell how far it is, in units of the job's choice; cheap, so call it often. Raises Cancelled."""

    #: Threads that it may use at once.
    threads: int


@dataclass(frozen=True)
class Job(Generic[P, R]):
    """An implementation: the object that an entry point leads to.

    `run` raises LoraError for bad input, in one line that names the file and the remedy; nothing is half written
    then. It imports what is heavy itself, so that this object costs nothing to load.
    """

    name: str
    parameters: type[P]
    result: type[R]
    run: Callable[[P, Context], R]


class Alone:
    """The context of a job in the caller's own process: `told` hears how far it is."""

    def __init__(self, threads: int = 1, told: Callable[[float, float, str], Any] | None = None) -> None:
        self.threads = threads
        self._told = told

    def progress(self, done: float, total: float, what: str = "") -> None:
        if self._told is not None:
            self._told(done, total, what)


#: Jobs of seconds, which only look at a file. One of them may run beside one of the others.
SHORT = frozenset({"hashes", "metadata", "importance", "spectrum", "pca", "plot", "report"})
#: The jobs of lorad itself, by the extra that brings what they need.
_EXTRAS = {
    **dict.fromkeys((*SHORT, "resize", "merge", "convert", "compare", "extract", "bake"), "toolkit"),
    **dict.fromkeys(("train", "generate"), "train"),
}
_OURS = "lorad"
#: Jobs that are done sooner than all installed packages are looked through, as their entry points have them.
_QUICK = {"metadata": "lorakit.jobs.metadata.job:JOB", "hashes": "lorakit.jobs.hashes.job:JOB"}
#: What the libraries below numpy, and torch, read when they are loaded.
_POOLS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class Place(NamedTuple):
    """Where a job is: `module:name`, and the distribution that brings it."""

    name: str
    value: str
    distribution: str


def find(name: str) -> Place:
    """Look for a job among all installed packages, which takes some hundredths of a second.

    Raises MissingPackage and UsageError.
    """
    if name in _QUICK:
        return Place(name, _QUICK[name], _OURS)
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to import, and not always needed

    for point in entry_points(group=GROUP, name=name):
        return Place(name, point.value, point.dist.name if point.dist else "")
    if name in _EXTRAS:
        raise MissingPackage(f"{name} is not installed here: {_install(name, _OURS)}", name)
    raise UsageError(f"there is no job {name[:80]!r}; is the package that brings it installed?")


def load(place: Place) -> Job[Any, Any]:
    """The implementation. Raises MissingPackage where what it needs is not installed, and UsageError."""
    module, _, name = place.value.partition(":")
    try:
        with needed(place):
            job = getattr(import_module(module), name)
    except AttributeError as error:
        raise UsageError(f"{place.name}: {place.value} is not there; install {place.distribution} anew") from error
    if not isinstance(job, Job):
        raise UsageError(f"{place.name}: {place.value} is no loracore.jobs.job.Job; tell {place.distribution}")
    return job


def work(place: Place, parameters: bytes, context: Context) -> bytes:
    """Do a job: MessagePack of its parameters in, MessagePack of its result out.

    Raises what the job does, MissingPackage, and UsageError for parameters that are none.
    """
    with needed(place):
        job = load(place)
        try:
            wanted = unpacked(parameters, job.parameters)
        except msgspec.MsgspecError as error:
            raise UsageError(
                f"{place.name}: wrong parameters: {error}; is the client of another version?"
            ) from error
        return msgspec.msgpack.encode(job.run(wanted, context))


def ours(name: str) -> Place:
    """A job of lorad itself, for `needed`."""
    return Place(name, "", _OURS)


@contextmanager
def needed(place: Place) -> Iterator[None]:
    """What a job needs: a module that is not there becomes a MissingPackage that names the remedy."""
    try:
        yield
    except ModuleNotFoundError as error:
        what = f"{place.name} needs {error.name}"
        raise MissingPackage(f"{what}: {_install(place.name, place.distribution)}", place.name) from error


def use_one_thread_each(environment: MutableMapping[str, str]) -> None:
    """Have the libraries below numpy use one thread; before they are loaded.

    A job's threads (`Context.threads`) are its own, over modules or layers: so there is one pool, and a result
    does not depend on how many threads there are.
    """
    environment.update(dict.fromkeys(_POOLS, "1"))


def _install(name: str, distribution: str) -> str:
    if distribution.lower() == _OURS:
        return f"pip install 'lorad[{_EXTRAS.get(name, 'toolkit')}]'"
    return f"pip install --upgrade {distribution or 'the package that brings it'}"
