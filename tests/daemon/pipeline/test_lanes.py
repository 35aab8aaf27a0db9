"""A loader that is at a long task does short ones in between, and both come out right."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from loracore.identity import Identity
from lorad.pipeline.dispatch import Finished, Lost, PiecesJob, Plan
from lorad.pipeline.launch import Crew
from lorad.pipeline.pipeline import Pipeline
from lorad.pipeline.protocol import LANES, LENGTHS, LONG_LANE, OWN_LANE, Run, Target, lane_of

#: Bytes of a file: some slabs, so that a task is interrupted some times.
SIZE = 16 << 20


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.chdir(tmp_path)
    pipeline = Pipeline(Crew(str(tmp_path), str(tmp_path), loaders=1, hasher="cpu"), told=lambda *death: None)
    yield pipeline
    pipeline.stop()


def job(path: Path, number: int, *, lane: int, pieces: int = 1) -> PiecesJob:
    """Digest a whole file in so many pieces of different lengths."""
    size = path.stat().st_size
    cuts = sorted(random.Random(number).sample(range(1, size), pieces - 1))
    lengths = [end - start for start, end in zip([0, *cuts], [*cuts, size], strict=True)]
    plan = Plan(msgspec.msgpack.encode([Run(0, lengths)]), pieces, size, None)
    target = Target(os.fsencode(path), Identity.of(path.stat()))
    return PiecesJob([number], [0], [target], [plan], sequential=True, lane=lane)


def start(pipeline: Pipeline, work: PiecesJob) -> None:
    while (loader := pipeline.room(work.lane)) is None:
        assert not list(pipeline.poll(0.1))
    pipeline.dispatcher.start(loader, work)


def ended(pipeline: Pipeline, count: int) -> list[Finished]:
    found: list[Finished] = []
    while len(found) < count:
        for event in pipeline.poll(1.0):
            assert not isinstance(event, Lost)
            found += [event] if isinstance(event, Finished) else []
    return found


def test_tasks_in_all_lanes_at_once_keep_their_digests(pipeline: Pipeline, tmp_path: Path) -> None:
    """However they are nested, and whoever digests them."""
    paths = []
    for lane in reversed(range(LANES)):
        path = tmp_path / str(lane)
        path.write_bytes(random.Random(lane).randbytes(SIZE // 4) * 4)
        start(pipeline, job(path, lane, lane=lane, pieces=1 + 3 * (lane % 3)))
        paths.append(path)
    for finished in ended(pipeline, len(paths)):
        (number,) = finished.job.files
        assert isinstance(finished.job, PiecesJob)
        content, position, digests = (tmp_path / str(number)).read_bytes(), 0, []
        for run in msgspec.msgpack.decode(finished.job.plans[0].runs, type=list[Run]):
            for length in run.lengths:
                digests.append(blake3(content[position : position + length]).digest())
                position += length
        assert finished.outcomes[0].trouble is None
        assert finished.digests == b"".join(digests)


@pytest.mark.parametrize("lane", [LONG_LANE, OWN_LANE])
def test_a_long_task_gives_way_and_can_be_cancelled(pipeline: Pipeline, tmp_path: Path, lane: int) -> None:
    """What is left of it has digests that mean nothing, so that nothing is out of place."""
    giant, small = tmp_path / "giant", tmp_path / "small"
    with giant.open("wb") as file:
        file.truncate(1 << 40)
    small.write_bytes(b"x" * 1000)
    start(pipeline, job(giant, 1, lane=lane, pieces=5))
    start(pipeline, job(giant, 2, lane=lane + 1))
    for number in (3, 4):
        start(pipeline, job(small, number, lane=0))
    short = ended(pipeline, 2)
    assert {finished.job.files[0] for finished in short} == {3, 4}
    assert {finished.digests for finished in short} == {blake3(b"x" * 1000).digest()}
    pipeline.dispatcher.cancel(2)
    pipeline.dispatcher.cancel(1)
    for finished in ended(pipeline, 2):
        assert finished.outcomes[0].trouble is not None
        assert finished.outcomes[0].trouble.kind == "cancelled"
        assert len(finished.digests) == 32 * finished.job.plans[0].pieces  # type: ignore[union-attr]
    assert pipeline.dispatcher.idle


def test_lanes_are_by_length() -> None:
    """New files come first among tasks of one length, and all of these before the next length."""
    lengths = (0, LENGTHS[0], LENGTHS[0] + 1, 1 << 40, 1 << 60)
    assert [lane_of(length, new=True) for length in lengths] == [0, 0, 2, 16, 18]
    assert [lane_of(length, new=False) for length in lengths] == [1, 1, 3, 17, 19]
