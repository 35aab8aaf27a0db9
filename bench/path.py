"""`python -m bench.path`: the full-hash path alone, loaders → arena → hasher, against one process doing it.

Both digest every layer's bytes of the corpus `identical`, warm, processes started beforehand. The single
process reads into one buffer of 1 MiB that stays in its cache, the fastest honest way to do it alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from bench.corpus import make
from bench.read_and_hash import BUFFER, read_and_hash
from bench.recipes import Scale
from loracore.tensorfile import open_container
from lorad.pipeline.dispatch import Finished, PiecesJob, Plan
from lorad.pipeline.machinery import Machinery
from lorad.pipeline.protocol import Identity, Run, Target

#: Bytes of one job, about what a run of layers is in a scan of files of this size.
_JOB = 16 << 20


def jobs(paths: Sequence[str]) -> list[PiecesJob]:
    """Every layer of every file, in disk order, in jobs of about four MiB."""
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


def through_the_pipeline(machinery: Machinery, work: list[PiecesJob]) -> float:
    """Seconds until all digests are there."""
    waiting, done = work[::-1], 0
    started = time.perf_counter()
    while done < len(work):
        while waiting and (loader := machinery.room()) is not None:
            machinery.start(loader, waiting.pop())
        for event in machinery.poll(1):
            assert isinstance(event, Finished)
            assert event.outcomes[0].trouble is None, event.outcomes[0].trouble
            done += 1
    return time.perf_counter() - started


def by_one_process(paths: Sequence[str]) -> float:
    buffer = bytearray(BUFFER)
    started = time.perf_counter()
    for path in paths:
        read_and_hash(path, buffer, 1)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.path", description=__doc__)
    parser.add_argument("--folder", default="bench/.corpora", help="where the corpora lie")
    parser.add_argument("--runs", type=int, default=5, help="runs whose median counts (default: %(default)s)")
    parser.add_argument("--loaders", type=int, default=max(1, min(4, (os.cpu_count() or 1) - 1)))
    options = parser.parse_args()
    truth = make("identical", options.folder, Scale())
    paths = sorted(
        os.path.abspath(os.path.join(at, name)) for at, _, names in os.walk(truth.folder) for name in names
    )
    work = jobs(paths)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as scratch:
        machinery = Machinery(scratch, scratch, loaders=options.loaders, hasher="cpu", told=print)
        try:
            for turn in range(options.runs + 1):
                seconds = through_the_pipeline(machinery, work), by_one_process(paths)
                if turn:
                    ours.append(seconds[0])
                    theirs.append(seconds[1])
        finally:
            machinery.stop()
    size = sum(map(os.path.getsize, paths)) / 1e9
    table = Table(
        "", "median s", "GB/s", "ratio", title=f"{size:.2f} GB, {options.loaders} loader(s), {len(work)} jobs"
    )
    for name, values in (("loaders → arena → hasher", ours), ("one process, read + BLAKE3", theirs)):
        median = statistics.median(values)
        ratio = statistics.median(theirs) / median
        table.add_row(name, f"{median:.3f}", f"{size / median:.2f}", f"{ratio:.2f} ×")
    Console().print(table)


if __name__ == "__main__":
    main()
