"""What a job is, which jobs are installed, and what to do about one that is not.

A job has typed parameters and a typed result, says how far it is, and ends when it is asked to.
`SPEC` in `loracore.jobs.<name>` registers a job of lorad; an entry point of the group leads to its implementation.
The entry point of another package leads to a `Job` that is its own SPEC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, cast

import msgspec

from loracore.entrypoints import offered
from loracore.errors import LoraError, MissingPackage, UsageError
from loracore.framing import unpacked
from loracore.identity import Edited

#: Implementations are entry points of this group; their names are those of the commands.
GROUP = "lorad.jobs"

A = ParamSpec("A")
P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


class Cancelled(LoraError):
    """Whoever wanted the job does not want it any more."""


class Context(Protocol):
    """What a running job may use of the process that it runs in."""

    def progress(self, done: float, total: float, what: str = "") -> None:
        """Tell how far it is, in units of the job's choice; cheap, so call it often. Raises Cancelled."""

    def edited(self, files: Sequence[Edited]) -> None:
        """Have the daemon know files by what it knows of them as they were. Cheap, and never raises.

        At most 48 KiB at once, which is a message.
        """

    #: Threads that it may use at once.
    threads: int


@dataclass(frozen=True)
class Spec(Generic[A, P, R]):
    """A job's name, and the structs that it takes and gives; functions and methods that run it follow from this.

    `extra` of lorad brings what it needs. `help` is its line in `loractl --help`. `short`: it takes seconds, since
    it only looks at a file; one of these may run beside one of the others. `place` is where its entry point leads,
    for a job that is done sooner than all installed packages are looked through.
    """

    name: str
    #: The struct. As a function it has the parameters that methods of clients take.
    parameters: Callable[A, P]
    result: type[R]
    extra: str = field(default="toolkit", kw_only=True)
    help: str = field(default="", kw_only=True)
    short: bool = field(default=False, kw_only=True)
    place: str = field(default="", kw_only=True)

    def implemented(self, run: Callable[[P, Context], R]) -> Job[P, R]:
        """The object that the entry point leads to."""
        traits = {name: getattr(self, name) for name in ("extra", "help", "short", "place")}
        return Job(self.name, self.parameters, self.result, run, **traits)

    def decoded(self, parameters: bytes) -> P:
        """Raises msgspec.MsgspecError."""
        return unpacked(parameters, cast("type[P]", self.parameters))


@dataclass(frozen=True)
class Job(Spec[..., P, R], Generic[P, R]):
    """An implementation: the object that an entry point leads to.

    `run` raises LoraError for bad input, in one line that names the file and the remedy; nothing is half written
    then. It imports what is heavy itself, so that this object costs nothing to load.
    """

    run: Callable[[P, Context], R]


class Alone:
    """The context of a job in the caller's own process: `told` hears how far it is, `edited` of edited files."""

    def __init__(
        self,
        threads: int = 1,
        told: Callable[[float, float, str], Any] | None = None,
        edited: Callable[[Sequence[Edited]], Any] | None = None,
    ) -> None:
        self.threads = threads
        self._told = told
        self._edited = edited

    def progress(self, done: float, total: float, what: str = "") -> None:
        if self._told is not None:
            self._told(done, total, what)

    def edited(self, files: Sequence[Edited]) -> None:
        if self._edited is not None:
            self._edited(files)


_OURS = "lorad"
#: Jobs that have no SPEC yet, by the extra that is to bring them.
_EXTRAS = {"train": "train", "generate": "train"}
#: What the libraries below numpy, and torch, read when they are loaded.
_POOLS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class Place(NamedTuple):
    """Where a job is: `module:name`, and the distribution that brings it. `short`: see `Spec`."""

    name: str
    value: str
    distribution: str
    short: bool = False


def spec_of(name: str) -> Spec[..., Any, Any] | None:
    """The SPEC of a job of lorad itself; None where it has none of this name."""
    if not name.isidentifier():
        return None
    try:
        module = import_module(f"loracore.jobs.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"loracore.jobs.{name}":
            raise
        return None
    spec: Spec[..., Any, Any] | None = getattr(module, "SPEC", None)
    return spec


def find(name: str) -> Place:
    """Look for a job among all installed packages, which takes some hundredths of a second.

    Raises MissingPackage and UsageError.
    """
    spec = spec_of(name)
    short = spec is not None and spec.short
    if spec is not None and spec.place:
        return Place(name, spec.place, _OURS, short)
    for point in offered(GROUP, name=name):
        return Place(name, point.value, point.dist.name if point.dist else "", short)
    if spec is not None or name in _EXTRAS:
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
            wanted = job.decoded(parameters)
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
    if distribution.lower() != _OURS:
        return f"pip install --upgrade {distribution or 'the package that brings it'}"
    spec = spec_of(name)
    return f"pip install 'lorad[{spec.extra if spec is not None else _EXTRAS.get(name, 'toolkit')}]'"


def encoded(parameters: msgspec.Struct) -> bytes:
    """Raises UsageError for a number that no message can hold."""
    try:
        return msgspec.msgpack.encode(parameters)
    except OverflowError as error:
        raise UsageError("a number is beyond 64 bits; give a smaller one") from error
