"""The books of the pipeline: no slab and no job is ever lost, whoever dies when."""

from __future__ import annotations

import random
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from lorad.pipeline.dispatch import DEPTH, Dispatcher, Finished, Lost, PiecesJob, Plan
from lorad.pipeline.protocol import (
    Credit,
    Digested,
    Done,
    Filled,
    Identity,
    Outcome,
    ReadPieces,
    Target,
    ToChild,
)

SLABS, LOADERS, FILLS = 6, 2, 3
TARGET = Target(b"x", Identity(0, 0, 0, 0, 0))


def job(file: int) -> PiecesJob:
    return PiecesJob([file], [0], [TARGET], [Plan(b"", FILLS, 0, None)], sequential=True)


class Loader:
    """A loader as the core sees it: each of its tasks fills three slabs, one piece each."""

    def __init__(self) -> None:
        self.slabs: list[int] = []
        self.tasks: list[tuple[int, int]] = []


class World:
    """Loaders and a hasher that do one thing at a time, in any order, and may die between any two."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.loaders: dict[int, Loader] = {}
        self.hasher: list[Filled] | None = None
        self.books = Dispatcher(self.to_loader, self.to_hasher, SLABS, LOADERS)
        self.waiting = list(range(20))
        self.finished: list[int] = []

    def to_loader(self, index: int, message: ToChild) -> None:
        match message:
            case Credit(slabs):
                self.loaders[index].slabs += slabs
            case ReadPieces(task):
                self.loaders[index].tasks.append((task, 0))

    def to_hasher(self, message: Filled) -> None:
        assert self.hasher is not None
        self.hasher.append(message)

    def take(self, *events: Finished | Lost | None) -> None:
        for event in events:
            match event:
                case Finished(done, _, digests):
                    assert digests == bytes(32 * FILLS)
                    self.finished += done.files
                case Lost(lost, _):
                    self.waiting += lost.files

    def step(self, *, deadly: bool) -> None:
        digest = partial(self.digest, deadly=deadly)
        acts = [self.start, self.fill, self.fill, digest, digest]
        self.random.choice([*acts, self.kill_loader, self.kill_hasher] if deadly else acts)()
        held = [slab for loader in self.loaders.values() for slab in loader.slabs]
        held += [filled.slab for filled in self.hasher or ()]
        assert len(held) == len(set(held)), "a slab has one holder"

    def start(self) -> None:
        missing = [index for index in range(LOADERS) if index not in self.loaders]
        if missing:
            self.loaders[missing[0]] = Loader()
            self.books.loader_ready(missing[0])
        elif self.hasher is None:
            self.hasher = []
            self.books.hasher_ready()
        elif self.waiting and (index := self.books.room()) is not None:
            assert len(self.loaders[index].tasks) < DEPTH
            self.books.start(index, job(self.waiting.pop()))

    def fill(self) -> None:
        busy = [loader for loader in self.loaders.values() if loader.tasks and loader.slabs]
        if busy:
            loader = self.random.choice(busy)
            task, filled = loader.tasks[0]
            self.take(self.books.filled(Filled(task, loader.slabs.pop(0), [1], False, False)))
            loader.tasks[0] = (task, filled + 1)
            if filled + 1 == FILLS:
                loader.tasks.pop(0)
                self.take(self.books.done(Done(task, [Outcome(0.0, 0, 0)])))

    def digest(self, *, deadly: bool) -> None:
        if self.hasher:
            filled = self.hasher.pop(0)
            # A GPU that failed took the beginning of a piece with it.
            lost = deadly and self.random.random() < 0.1
            digests = b"" if lost else bytes(32)
            self.take(self.books.digested(Digested(filled.task, filled.slab, digests, lost)))

    def kill_loader(self) -> None:
        if self.loaders:
            index = self.random.choice(list(self.loaders))
            dead = self.loaders.pop(index)
            marked = (dead.tasks[0][0], 0) if dead.tasks else (0, 0)
            lost = self.books.loader_died(index, marked)
            assert [event.culprit for event in lost if event.culprit is not None] == (
                lost[0].job.files if marked[0] else []
            )
            self.take(*lost)

    def kill_hasher(self) -> None:
        if self.hasher is not None:
            self.hasher = None
            self.take(*self.books.hasher_died())


@given(st.integers(0, 2**32))
def test_every_job_is_done_once_whoever_dies(seed: int) -> None:
    """Loaders and the hasher are killed at any moment, a GPU loses digests; every job still ends, exactly once."""
    world = World(seed)
    for _ in range(300):
        world.step(deadly=True)
    for _ in range(10_000):
        if len(world.finished) == 20:
            break
        world.step(deadly=False)
    assert sorted(world.finished) == list(range(20))
    assert world.books.idle
