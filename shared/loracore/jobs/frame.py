"""What a job is: typed parameters in, typed result out, telling how far it is and ending when it is told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from loracore.errors import LoraError

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
