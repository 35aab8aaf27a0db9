"""Who reads what, and who holds which slab: the core's books of the pipeline. No sockets, no processes.

A slab belongs to the core, to a loader that may fill it, or to the hasher that digests it. Its way is
always core → loader → core → hasher → core, so when a process dies the core knows what it held. A task is
finished when its loader is done with it and the hasher has digested all that it filled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from lorad.pipeline.protocol import (
    SHORT,
    Cancel,
    Credit,
    Digested,
    Done,
    Filled,
    Outcome,
    ReadHeaders,
    ReadPieces,
    ReadResidue,
    Target,
    ToChild,
)

#: Tasks of a lane that a loader has at hand, so that it never waits for the next; where they take long, one.
DEPTH = 2


class Plan(NamedTuple):
    """How pieces are read: encoded runs in disk order, their bytes, and each piece's place in the question.

    `order` is None where disk order is the question's order.
    """

    runs: bytes
    pieces: int
    length: int
    order: Sequence[int] | None


class HeaderJob(NamedTuple):
    """Read the headers of these files."""

    files: Sequence[int]
    targets: Sequence[Target]
    lane: int = 0

    def message(self, task: int) -> ToChild:
        return ReadHeaders(task, self.targets, self.lane)


class PiecesJob(NamedTuple):
    """Digest pieces of these files: for each, the question's number and where the pieces lie."""

    files: Sequence[int]
    numbers: Sequence[int]
    targets: Sequence[Target]
    plans: Sequence[Plan]
    sequential: bool
    lane: int = 0

    def message(self, task: int) -> ToChild:
        return ReadPieces(task, self.targets, [plan.runs for plan in self.plans], self.sequential, self.lane)


class ResidueJob(NamedTuple):
    """Digest what lies between the layers of a file."""

    files: Sequence[int]
    targets: Sequence[Target]
    lane: int = 0

    def message(self, task: int) -> ToChild:
        return ReadResidue(task, self.targets[0], self.lane)


Job = HeaderJob | PiecesJob | ResidueJob


class Finished(NamedTuple):
    """A job's outcomes, one a file, and for pieces the digests (32 bytes each) in disk order."""

    job: Job
    outcomes: Sequence[Outcome]
    digests: bytes


class Lost(NamedTuple):
    """A job that has to be done again. `culprit` is the file on which its loader died, if it did."""

    job: Job
    culprit: int | None


class _Task:
    def __init__(self, job: Job, loader: int) -> None:
        self.job = job
        self.loader = loader
        self.outcomes: Sequence[Outcome] | None = None
        #: Digests in the order of the pieces; empty where a slab is still with the hasher.
        self.digests: list[bytes] = []
        self.digesting = 0
        #: Slabs of it were digested: the hasher may hold the beginning of a piece.
        self.begun = False
        self.cancelled = False
        #: Digests of this task are lost, with the hasher or with the GPU: it has to be done again.
        self.doomed = False


class Dispatcher:
    """The books. `to_loader(index, message)` and `to_hasher(message)` send."""

    def __init__(
        self,
        to_loader: Callable[[int, ToChild], None],
        to_hasher: Callable[[Filled], None],
        slabs: int,
        loaders: int,
    ) -> None:
        self._to_loader = to_loader
        self._to_hasher = to_hasher
        self._free = deque(range(slabs))
        self._share = max(2, slabs // loaders)
        self._tasks: dict[int, _Task] = {}
        self._next = 1
        self._ready: dict[int, set[int]] = {}
        self._held: dict[int, int] = {}
        #: For each slab that the hasher has: its task, and the place of its digests in that.
        self._digesting: dict[int, tuple[int, int]] = {}
        self._hasher_ready = False
        self._parked: list[Filled] = []

    @property
    def idle(self) -> bool:
        return not self._tasks

    def works(self, lanes: int) -> bool:
        """Whether there is a task in the first lanes."""
        return any(task.job.lane < lanes for task in self._tasks.values())

    def reading(self, marked: int, position: int) -> bytes:
        """The file at this position of a task, of which only the lower half of its number is known."""
        for number, task in self._tasks.items():
            if number & 0xFFFFFFFF == marked and position < len(task.job.targets):
                return task.job.targets[position].path
        return b""

    def busy(self, loader: int) -> bool:
        """Whether a loader has a task at hand."""
        return bool(self._ready.get(loader))

    @property
    def digesting(self) -> bool:
        """Whether the hasher has a slab at hand."""
        return len(self._digesting) > len(self._parked)

    def room(self, lane: int = 0, without: Container[str] = ()) -> int | None:
        """The loader that should get the next job of a lane, or None while all have enough.

        `without` names those that shall get none now.
        """
        loads = [
            (sum(self._tasks[number].job.lane == lane for number in numbers), len(numbers), index)
            for index, numbers in self._ready.items()
            if f"loader-{index}" not in without
        ]
        count, _, index = min(loads, default=(DEPTH, 0, 0))
        return index if count < (DEPTH if lane < SHORT else 1) else None

    def start(self, loader: int, job: Job) -> None:
        number, self._next = self._next, self._next + 1
        self._tasks[number] = _Task(job, loader)
        self._ready[loader].add(number)
        self._to_loader(loader, job.message(number))
        self._grant()

    def cancel(self, file: int | None = None) -> None:
        """Have what is read of a file, or of all files, end soon, where it takes long."""
        for number, task in self._tasks.items():
            asked = file in (None, task.job.files[0]) and not task.cancelled
            if asked and task.job.lane >= SHORT and task.outcomes is None:
                task.cancelled = True
                self._to_loader(task.loader, Cancel(number))

    def loader_ready(self, loader: int) -> None:
        self._ready[loader] = set()
        self._grant()

    def hasher_ready(self) -> None:
        self._hasher_ready = True
        parked, self._parked = self._parked, []
        for filled in parked:
            self._to_hasher(filled)

    def hasher_leaves(self) -> None:
        """The hasher digests what it has and gets no more; what comes waits for the next one."""
        self._hasher_ready = False

    def filled(self, message: Filled) -> None:
        """A loader filled a slab: on to the hasher, unless its digests would be of no use."""
        task = self._tasks.get(message.task)
        del self._held[message.slab]
        if task is None or task.doomed:
            self._free.append(message.slab)
            self._grant()
            return
        self._digesting[message.slab] = (message.task, len(task.digests) + 1)
        task.digests += (message.before, b"")
        task.digesting += 1
        message = replace(message, before=b"")
        if self._hasher_ready:
            self._to_hasher(message)
        else:
            self._parked.append(message)

    def digested(self, message: Digested) -> Finished | Lost | None:
        number, place = self._digesting.pop(message.slab)
        self._free.append(message.slab)
        self._grant()
        task = self._tasks.get(number)
        if task is None:
            return None
        task.digesting -= 1
        task.begun = True
        task.doomed |= message.lost
        task.digests[place] = message.digests
        return self._end(number, task)

    def done(self, message: Done) -> Finished | Lost | None:
        """A loader is through with a task; its slabs may still be with the hasher."""
        task = self._tasks.get(message.task)
        if task is None:
            return None
        task.outcomes = message.outcomes
        task.digests.append(message.digests)
        self._ready[task.loader].discard(message.task)
        return self._end(message.task, task)

    def loader_died(self, loader: int, marked: tuple[int, int]) -> list[Lost]:
        """A loader's process ended. `marked` is what it was working on, from the arena."""
        self._ready.pop(loader, None)
        for slab in [slab for slab, holder in self._held.items() if holder == loader]:
            del self._held[slab]
            self._free.append(slab)
        lost = []
        for number, task in list(self._tasks.items()):
            if task.loader == loader and task.outcomes is None:
                del self._tasks[number]
                culprit = task.job.files[marked[1]] if marked[0] == number & 0xFFFFFFFF else None
                lost.append(Lost(task.job, culprit))
        self._grant()
        return lost

    def hasher_died(self) -> list[Lost]:
        """The hasher's process ended: what it held is lost, and so are the tasks that it had begun."""
        self._hasher_ready = False
        self._parked.clear()
        self._free.extend(self._digesting)
        self._digesting.clear()
        lost = []
        for number, task in list(self._tasks.items()):
            task.doomed |= bool(task.digesting or task.begun)
            task.digesting = 0
            ended = self._end(number, task) if task.doomed else None
            if isinstance(ended, Lost):
                lost.append(ended)
        self._grant()
        return lost

    def _end(self, number: int, task: _Task) -> Finished | Lost | None:
        if task.outcomes is None or task.digesting:
            return None
        del self._tasks[number]
        if task.doomed:
            return Lost(task.job, None)
        return Finished(task.job, task.outcomes, b"".join(task.digests))

    def _grant(self) -> None:
        """Give free slabs to loaders, each up to its share."""
        for loader in self._ready if self._free else ():
            lacking = self._share - sum(holder == loader for holder in self._held.values())
            slabs = [self._free.popleft() for _ in range(min(lacking, len(self._free)))]
            self._held.update((slab, loader) for slab in slabs)
            if slabs:
                self._to_loader(loader, Credit(slabs))
