"""Slabs go to the GPU and digests come back: those of the `blake3` package, whatever the slabs hold."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorad.pipeline.arena import Arena
from lorad.pipeline.cuda import digester as digesting
from lorad.pipeline.cuda import joins
from lorad.pipeline.cuda.device import Device, address
from lorad.pipeline.cuda.digester import CudaDigester
from lorad.pipeline.cuda.lanes import SPAN, VALUE
from lorad.pipeline.cuda.opening import check, drain
from lorad.pipeline.hasher import Hasher
from lorad.pipeline.protocol import Digested, Filled

SLAB, SLABS = 3 * SPAN, 6
#: Short ones, such as end near a tile's end, and such as go over several slabs.
LENGTHS = st.one_of(
    st.integers(0, 5000),
    st.integers(SPAN - 1030, SPAN + 1030),
    st.integers(0, 3 * SLAB),
)
TASKS = st.lists(st.lists(LENGTHS, min_size=1, max_size=8), min_size=1, max_size=3)


class Loaders:
    """Slabs filled with the pieces of tasks that take turns, and the digests that are owed for them.

    `whole`: every slab is filled to its end.
    """

    def __init__(
        self, tasks: list[list[int]], arena: Arena, chance: random.Random, *, whole: bool = False
    ) -> None:
        self._whole = whole
        self._arena = arena
        self._chance = chance
        self._tasks = {
            number: [chance.randbytes(length) for length in lengths] for number, lengths in enumerate(tasks)
        }
        self.digests = dict.fromkeys(self._tasks, b"")
        self.free = list(range(arena.count))

    def expected(self) -> dict[int, bytes]:
        return {task: b"".join(blake3(piece).digest() for piece in pieces) for task, pieces in self._tasks.items()}

    def slabs(self) -> Iterator[Filled]:
        """Each task's in their order, that of the tasks by chance; waits where no slab is free."""
        ways = {number: self._fill(number, pieces) for number, pieces in self._tasks.items()}
        while ways:
            number = self._chance.choice(sorted(ways))
            try:
                yield next(ways[number])
            except StopIteration:
                del ways[number]

    def _fill(self, task: int, pieces: list[bytes]) -> Iterator[Filled]:
        segments: list[int] = []
        memory, used, continued, slab = memoryview(b""), 0, False, -1
        for piece in pieces:
            position, begun = 0, False
            while position < len(piece) or not begun:
                if used == len(memory):
                    if slab >= 0:
                        yield Filled(task, slab, segments, continued, begun)
                        continued = begun
                    slab, used, segments = self.free.pop(), 0, []
                    # A slab is not always used to its end.
                    least = SLAB if self._whole else self._chance.choice([1, SLAB])
                    memory = self._arena.slab(slab)[: self._chance.randint(least, SLAB)]
                count = min(len(memory) - used, len(piece) - position)
                memory[used : used + count] = piece[position : position + count]
                segments.append(count)
                used, position, begun = used + count, position + count, True
        yield Filled(task, slab, segments, continued, False)

    def answered(self, digested: Digested) -> None:
        """What was digested must not be needed any more: the slab is overwritten at once."""
        self.digests[digested.task] += digested.digests
        self._arena.slab(digested.slab)[:] = b"\xff" * SLAB
        self.free.append(digested.slab)


def new_arena() -> Arena:
    arena = Arena.create(SLAB, SLABS)
    os.close(arena.fd)
    return arena


def digest_all(hasher: Hasher, loaders: Loaders) -> set[int]:
    """As the hasher process does, with slabs handed out again as soon as they are answered; the lost tasks."""
    lost = set()

    def hear(answers: list[Digested]) -> None:
        for digested in answers:
            if digested.lost:
                lost.add(digested.task)
            loaders.answered(digested)

    for filled in loaders.slabs():
        hear(hasher.take(filled))
        while not loaders.free:
            hear(hasher.advance())
    while hasher.busy:
        hear(hasher.advance())
    return lost


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TASKS, st.integers(1, 3), st.integers(0, 1 << 30))
def test_digests_are_those_of_blake3(cupy: ModuleType, tasks: list[list[int]], batch: int, seed: int) -> None:
    """Pieces of any length, within a slab and over several, of tasks that take turns, in batches of any size."""
    arena = new_arena()
    hasher = Hasher(arena, told=pytest.fail)
    hasher.use(CudaDigester(arena, Device(0), batch))
    loaders = Loaders(tasks, arena, random.Random(seed))
    assert not digest_all(hasher, loaders)
    assert loaders.digests == loaders.expected()


def test_a_digester_passes_its_own_check(cupy: ModuleType) -> None:
    """The check that a GPU has to pass before it is used."""
    check(Device(0))


def test_more_pieces_than_the_tables_hold_are_digested_all_the_same(
    cupy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of millions of tiny tensors costs no GPU memory."""
    monkeypatch.setattr(digesting, "PIECES", 50)
    arena = new_arena()
    hasher = Hasher(arena, told=pytest.fail)
    hasher.use(CudaDigester(arena, Device(0), 2))
    loaders = Loaders([[3] * 40 + [SLAB] + [0] * 60 + [SLAB], [7] * 51], arena, random.Random(0))
    assert not digest_all(hasher, loaders)
    assert loaders.digests == loaders.expected()


def test_slabs_are_read_in_place_where_they_are_pinned(cupy: ModuleType) -> None:
    """Pinned memory is copied by the device itself, which may come to it late: the slab is not free before."""
    arena = new_arena()
    device = Device(0)
    where = address(np.frombuffer(arena.slabs, np.uint8))
    assert device.pin(where, len(arena.slabs))
    hasher = Hasher(arena, told=pytest.fail)
    hasher.use(CudaDigester(arena, device, 2))
    loaders = Loaders([[SLAB // 3] * 20, [5000] * 100], arena, random.Random(1))
    assert not digest_all(hasher, loaders)
    cupy.cuda.runtime.hostUnregister(where)
    assert loaders.digests == loaders.expected()


@pytest.mark.parametrize("launches", range(1, 10))
def test_a_gpu_that_fails_costs_no_task(emulated: Callable[..., ModuleType], launches: int) -> None:
    """Whenever it fails, the CPU digests what it owed; only a task with a piece begun on it is lost as a whole."""
    emulated(fail_after=launches)
    arena = new_arena()
    notes: list[str] = []
    hasher = Hasher(arena, told=notes.append)
    hasher.use(CudaDigester(arena, Device(0), 2))
    within = [[100] * 50, [SPAN - 7, 3]]
    long = [[5000, 2 * SLAB, 70_000, 3 * SLAB, 12], [4 * SLAB]]
    loaders = Loaders([*long, *within], arena, random.Random(launches), whole=True)
    lost = digest_all(hasher, loaders)
    assert len(loaders.free) == SLABS
    assert len(notes) == 1
    assert "the CPU goes on" in notes[0]
    assert lost <= {0, 1}, "a task whose pieces lie within slabs was lost"
    for task, digests in loaders.expected().items():
        assert task in lost or loaders.digests[task] == digests


def test_pieces_that_the_cpu_began_are_ended_by_it(emulated: Callable[..., ModuleType]) -> None:
    """The GPU is opened while the CPU is at work, which it takes over without a break."""
    emulated()
    arena = new_arena()
    hasher = Hasher(arena, told=pytest.fail)
    loaders = Loaders([[4 * SLAB, 100, 4 * SLAB], [3 * SLAB]], arena, random.Random(3))
    device = Device(0)
    for number, filled in enumerate(loaders.slabs()):
        if number == 3:
            hasher.use(CudaDigester(arena, device, 2))
        for digested in hasher.take(filled):
            loaders.answered(digested)
        while hasher.busy:
            for digested in hasher.advance():
                loaders.answered(digested)
    assert loaders.digests == loaders.expected()


def test_slabs_without_a_piece_for_the_gpu_are_answered(
    emulated: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch may hold nothing but pieces that are digested beside it."""
    emulated()
    monkeypatch.setattr(digesting, "PIECES", 1)
    arena = new_arena()
    hasher = Hasher(arena, told=pytest.fail)
    hasher.use(CudaDigester(arena, Device(0), 2))
    loaders = Loaders([[0, 1, 2], [3, 4]], arena, random.Random(0))
    assert not digest_all(hasher, loaders)
    assert loaders.digests == loaders.expected()


def test_long_pieces_ask_for_no_memory_while_they_come(emulated: Callable[..., ModuleType]) -> None:
    """What joins their tiles is reserved: that somebody else fills the GPU meanwhile costs nothing."""
    runtime = emulated().cuda.runtime
    arena = new_arena()
    hasher = Hasher(arena, told=pytest.fail)
    hasher.use(CudaDigester(arena, Device(0), 2))
    runtime.malloc(runtime.memGetInfo()[0])
    loaders = Loaders([[3 * SLAB, 5, 2 * SLAB], [4 * SLAB]], arena, random.Random(5))
    assert not digest_all(hasher, loaders)
    assert loaders.digests == loaders.expected()


def test_long_pieces_of_a_batch_are_joined_at_once(emulated: Callable[..., ModuleType], tmp_path: Path) -> None:
    """A launch for their beginnings, one for their ends, and one that joins all of them."""
    launches = tmp_path / "launches"
    emulated(counter=str(launches))
    arena = new_arena()
    arena.slabs[:] = os.urandom(len(arena.slabs))
    digester = CudaDigester(arena, Device(0), 3)
    for half in (0, 1):
        for task in range(3):
            digester.take(Filled(task, 2 * task + half, [SLAB], continued=half == 1, open=half == 0))
    answers = {answer.slab: answer.digests for answer in drain(digester)}
    pieces = [arena.slabs[2 * task * SLAB :][: 2 * SLAB] for task in range(3)]
    assert [answers[2 * task + 1] for task in range(3)] == [blake3(piece).digest() for piece in pieces]
    assert launches.stat().st_size == 3


def test_a_piece_larger_than_the_room_for_joins_is_joined_all_the_same(
    emulated: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory that it takes is given back."""
    runtime = emulated().cuda.runtime
    monkeypatch.setattr(joins, "_ROOM", 4 * VALUE)
    arena = new_arena()
    hasher = Hasher(arena, told=pytest.fail)
    hasher.use(CudaDigester(arena, Device(0), 2))
    before = runtime.memGetInfo()
    loaders = Loaders([[9 * SLAB], [5 * SLAB]], arena, random.Random(5), whole=True)
    assert not digest_all(hasher, loaders)
    assert loaders.digests == loaders.expected()
    assert runtime.memGetInfo() == before


@pytest.mark.parametrize("gpu", [False, True])
def test_what_a_dead_loader_left_open_is_forgotten(emulated: Callable[..., ModuleType], gpu: bool) -> None:
    """A task that goes on is not, however many others do not."""
    emulated()
    arena = Arena.create(2 * SPAN, 1)
    os.close(arena.fd)
    arena.slabs[:] = os.urandom(len(arena.slabs))
    hasher = Hasher(arena, told=pytest.fail)
    digester = CudaDigester(arena, Device(0), 1)
    if gpu:
        hasher.use(digester)

    def take(filled: Filled) -> list[Digested]:
        answers = hasher.take(filled)
        while hasher.busy:
            answers += hasher.advance()
        return answers

    take(Filled(0, 0, [2 * SPAN], continued=False, open=True))
    for task in range(1, 548):
        take(Filled(task, 0, [2 * SPAN], continued=False, open=True))
        take(Filled(0, 0, [2 * SPAN], continued=True, open=True))
    assert len((digester if gpu else hasher)._streams) <= 512
    last = take(Filled(0, 0, [2 * SPAN], continued=True, open=False))
    assert [answer.digests for answer in last] == [blake3(bytes(arena.slabs) * 549).digest()]
