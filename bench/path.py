"""`python -m bench.path`: the full-hash path alone, loaders → arena → hasher, against one process.

Every layer of a corpus is digested, warm, by processes that are already there. The yardstick does the same in
one process: it reads into one buffer of 1 MiB that stays in its cache, and digests the layers there. Beside it
stands what digesting whole files costs, which is less work: no digests of layers come out of it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

import msgspec
from blake3 import blake3
from rich.console import Console
from rich.table import Table

from bench.corpus import make
from bench.read_and_hash import BUFFER, read_and_hash
from bench.recipes import Scale
from loracore.tensorfile import open_container
from lorad.pipeline.dispatch import Finished, PiecesJob, Plan
from lorad.pipeline.launch import Crew
from lorad.pipeline.pipeline import Pipeline
from lorad.pipeline.protocol import Identity, Run, Target

#: Bytes of one job, which is what a scan gives to a loader at once.
_JOB = 16 << 20


def jobs(paths: Sequence[str]) -> list[PiecesJob]:
    """Every layer of every file, in disk order, in jobs of a few MiB."""
    found = []
    for number, path in enumerate(paths):
        container = open_container(path)
        target = Target(os.fsencode(path), Identity.of(os.stat(path)), False, container.base)
        offsets = sorted(zip(container.arrangement.offsets, container.layout.sizes, strict=True))
        batch: list[int] = []
        start = 0
        for place, (offset, size) in enumerate(offsets):
            if not batch:
                start = offset
            batch.append(size)
            if sum(batch) >= _JOB or place == len(offsets) - 1:
                runs = msgspec.msgpack.encode([Run(start, batch)])
                plan = Plan(runs, len(batch), sum(batch), None)
                found.append(PiecesJob([number], [0], [target], [plan], sequential=True))
                batch = []
    # As in a scan, where the files of a group go forward side by side.
    return sorted(found, key=lambda job: msgspec.msgpack.decode(job.plans[0].runs)[0][0])


def through_the_pipeline(pipeline: Pipeline, work: list[PiecesJob]) -> float:
    """Seconds until all digests are there."""
    waiting, done = work[::-1], 0
    started = time.perf_counter()
    while done < len(work):
        while waiting and (loader := pipeline.room()) is not None:
            pipeline.dispatcher.start(loader, waiting.pop())
        for event in pipeline.poll(1):
            assert isinstance(event, Finished)
            assert event.outcomes[0].trouble is None, event.outcomes[0].trouble
            done += 1
    return time.perf_counter() - started


def layers_by_one_process(files: Sequence[tuple[str, Sequence[int], int]]) -> float:
    """Seconds for (path, sizes of the layers in disk order, where the first begins)."""
    buffer = memoryview(bytearray(BUFFER))
    started = time.perf_counter()
    for path, sizes, base in files:
        fd, begin = os.open(path, os.O_RDONLY), base
        waiting = deque(sizes)
        while waiting:
            batch = [waiting.popleft()]
            while waiting and sum(batch) + waiting[0] <= BUFFER:
                batch.append(waiting.popleft())
            begin = _digest_batch(fd, begin, batch, buffer)
        os.close(fd)
    return time.perf_counter() - started


def _digest_batch(fd: int, begin: int, batch: Sequence[int], buffer: memoryview) -> int:
    """Digest layers that lie back to back and fit the buffer, or one that does not; where the next begins."""
    total = sum(batch)
    if len(batch) == 1 and total > len(buffer):
        digest = blake3()
        for at in range(0, total, len(buffer)):
            digest.update(buffer[: os.preadv(fd, [buffer[: total - at]], begin + at)])
        digest.digest()
        return begin + total
    os.preadv(fd, [buffer[:total]], begin)
    at = 0
    for size in batch:
        blake3(buffer[at : at + size]).digest()
        at += size
    return begin + total


def files_by_one_process(paths: Sequence[str]) -> float:
    buffer = bytearray(BUFFER)
    started = time.perf_counter()
    for path in paths:
        read_and_hash(path, buffer, 1)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.path", description=__doc__)
    parser.add_argument("--folder", default="bench/.corpora", help="where the corpora lie")
    parser.add_argument("--corpus", default="identical", choices=["identical", "large"])
    parser.add_argument("--files", type=int, default=60, help="how many of its files (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=7, help="runs whose median counts (default: %(default)s)")
    parser.add_argument("--loaders", type=int, default=max(1, min(4, (os.cpu_count() or 1) - 1)))
    options = parser.parse_args()
    truth = make(options.corpus, options.folder, Scale())
    found = (os.path.join(at, name) for at, _, names in os.walk(os.path.abspath(truth.folder)) for name in names)
    paths = sorted(found)[: options.files]
    work, plain = jobs(paths), [(path, *_layers(path)) for path in paths]
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        pipeline = Pipeline(Crew(scratch, scratch, loaders=options.loaders, hasher="cpu"), told=print)
        contenders = {
            "loaders → arena → hasher": partial(through_the_pipeline, pipeline, work),
            "one process, every layer": partial(layers_by_one_process, plain),
            "one process, whole files": partial(files_by_one_process, paths),
        }
        try:
            # In turns, so that a busy moment of the machine falls on all of them. The first warms up.
            for turn in range(options.runs + 1):
                for name, contender in contenders.items():
                    elapsed = contender()
                    if turn:
                        seconds.setdefault(name, []).append(elapsed)
        finally:
            pipeline.stop()
    size = sum(map(os.path.getsize, paths)) / 1e9
    layers = sum(plan.pieces for job in work for plan in job.plans)
    title = f"{options.corpus}: {size:.2f} GB, {layers:,} layers, {options.loaders} loader(s)"
    table = Table("", "median s", "GB/s", "the pipeline is faster by", title=title)
    ours = statistics.median(seconds["loaders → arena → hasher"])
    for name, values in seconds.items():
        median = statistics.median(values)
        table.add_row(name, f"{median:.3f}", f"{size / median:.2f}", f"{median / ours:.2f} ×")
    Console().print(table)


def _layers(path: str) -> tuple[list[int], int]:
    container = open_container(path)
    pairs = sorted(zip(container.arrangement.offsets, container.layout.sizes, strict=True))
    return [size for _, size in pairs], container.base


if __name__ == "__main__":
    main()
