"""`python -m bench.gpu`: how fast BLAKE3 is on the GPU, what feeds it, and the CPU with all its cores beside it.

Four tables: the kernel on data that is on the device already, by the size of a layer and of a batch; the copy of
pinned memory alone; slabs in and digests out, both under way at once; and files through loaders and hasher, from
the page cache and from disk. Digests are compared with the `blake3` package's before anything is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from blake3 import blake3
from rich.console import Console
from rich.table import Table

from bench.corpus import make
from bench.machine import describe
from bench.path import jobs, through_the_pipeline
from bench.recipes import Scale
from lorad.pipeline.arena import SLAB, SLABS_FOR_GPU, Arena
from lorad.pipeline.cuda.buffer import Sizes
from lorad.pipeline.cuda.device import Device, address
from lorad.pipeline.cuda.digester import CudaDigester
from lorad.pipeline.cuda.joins import JOINS_BYTES
from lorad.pipeline.cuda.lanes import VALUE, Pieces, plan_pieces
from lorad.pipeline.cuda.opening import check, drain
from lorad.pipeline.launch import Crew
from lorad.pipeline.pipeline import Pipeline
from lorad.pipeline.protocol import Filled

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LAYERS = (4 * KIB, 16 * KIB, 40 * KIB, 256 * KIB, MIB, 16 * MIB, GIB)
BATCHES = (8 * MIB, 64 * MIB, GIB)
#: Milliseconds of launches that are measured as one, and how many these are at least and at most.
_QUEUED, _LAUNCHES = 20, (10, 50)
#: What an L2 miss fetches; see FETCH in blake3.cu.
FETCHES = (0, 64, 128, 256)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--gpu", type=int, default=0, help="number of the GPU (default: %(default)s)")
    parser.add_argument("--data", type=int, default=1024, help="MiB on the device (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each measurement (default: %(default)s)")
    parser.add_argument("--folder", default="bench/.corpora", help="where the corpora lie")
    parser.add_argument("--files", type=int, default=60, help="files from disk; 0: none (default: %(default)s)")
    parser.add_argument("--loaders", type=int, default=max(1, min(8, (os.cpu_count() or 1) - 2)))
    # Where that is now: a pipeline has a folder of its own.
    parser.add_argument("--json", metavar="FILE", type=os.path.abspath, help="write the figures to FILE as well")
    options = parser.parse_args()
    try:
        device = Device(options.gpu)
    except Exception as error:
        sys.exit(f"bench.gpu: no GPU can be used: {error}")
    check(device)
    bench = Bench(device, options.seconds)
    figures: dict[str, Any] = {"gpu": device.name, "machine": describe("."), "date": time.strftime("%Y-%m-%d")}
    console = Console()
    console.print(f"{device.name}; {figures['machine']['cpu']}, {figures['machine']['cores']} cores")
    arena = Arena.create(SLAB, SLABS_FOR_GPU)
    arena.slabs[:] = os.urandom(MIB) * (len(arena.slabs) // MIB)
    pinned = device.pin(address(np.frombuffer(arena.slabs, np.uint8)), len(arena.slabs))
    tables = {
        "kernel, data on the device": bench.kernel(options.data * MIB, options.gpu),
        f"copies of {'pinned' if pinned else 'pageable'} memory": bench.copies(arena),
        "slabs in, digests out": bench.slabs(arena),
        "the CPU": bench.cpu(arena),
    }
    if options.files:
        tables["files, by the whole pipeline"] = _files(options)
    for title, rows in tables.items():
        table = Table("", "GB/s", title=title)
        figures[title] = rates = dict(rows)
        for name, rate in rates.items():
            table.add_row(name, f"{rate:.1f}")
        console.print(table)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


class Bench:
    """Measurements on one device; each yields names and GB/s, the median of as many runs as fit in `seconds`."""

    def __init__(self, device: Device, seconds: float) -> None:
        self._device = device
        self._seconds = seconds

    def kernel(self, size: int, index: int) -> Iterator[tuple[str, float]]:
        """Whole trees, the joins included, with data, tables and results on the device."""
        data = self._device.allocate(size)
        random = np.frombuffer(os.urandom(MIB), np.uint8)
        stream = self._device.stream()
        for start in range(0, size - MIB + 1, MIB):
            self._device.copy_in(data + start, address(random), MIB, stream)
        stream.synchronize()
        for layer in LAYERS:
            for batch in BATCHES:
                if layer <= batch <= size:
                    # The least stays in the L2 cache from launch to launch on most GPUs.
                    cached = ", in L2" if batch == BATCHES[0] else ""
                    name = f"{_size(layer)} layers, {_size(batch)} a launch{cached}"
                    yield name, self._launches(data, layer, batch)
        batch = min(GIB, size)
        yield f"40 KiB layers at odd bytes, {_size(batch)} a launch", self._launches(data, 40 * KIB - 1, batch)
        for fetch in FETCHES:
            variant = Bench(Device(index, (f"-DFETCH={fetch}",)), self._seconds)
            rate = variant._launches(data, min(16 * MIB, batch), batch)
            yield f"{_size(min(16 * MIB, batch))} layers, {fetch or 'any'} bytes a fetch", rate
        self._device.release(data)

    def copies(self, arena: Arena) -> Iterator[tuple[str, float]]:
        """Slabs to the device, over two streams."""
        streams = [self._device.stream() for _ in range(2)]
        target = self._device.allocate(len(arena.slabs))
        source = address(np.frombuffer(arena.slabs, np.uint8))
        for piece in (MIB, arena.slab_size, len(arena.slabs)):

            def copy(piece: int = piece) -> int:
                for number, start in enumerate(range(0, len(arena.slabs), piece)):
                    self._device.copy_in(target + start, source + start, piece, streams[number % 2])
                for stream in streams:
                    stream.synchronize()
                return len(arena.slabs)

            yield f"{_size(piece)} a copy", self._rate(copy)
        self._device.release(target)

    def slabs(self, arena: Arena) -> Iterator[tuple[str, float]]:
        """What the hasher does, without its messages."""
        for batch in (1, 2, 4, 8):
            digester = CudaDigester(arena, self._device, batch)
            for layer in (16 * KIB, 256 * KIB, arena.slab_size, 8 * arena.slab_size):
                segments = [min(layer, arena.slab_size)] * max(1, arena.slab_size // layer)
                each = max(1, layer // arena.slab_size)

                def digest(
                    segments: list[int] = segments, each: int = each, digester: CudaDigester = digester
                ) -> int:
                    for slab in range(arena.count):
                        first, last = slab % each == 0, slab % each == each - 1
                        digester.take(Filled(1, slab, segments, continued=not first, open=not last))
                        if digester.full:
                            digester.advance()
                    drain(digester)
                    return len(arena.slabs)

                memory = (2 * Sizes(batch, arena.slab_size).device_bytes + JOINS_BYTES) / MIB
                yield f"{_size(layer)} layers, {batch} slab(s) a batch, {memory:.0f} MiB", self._rate(digest)
            digester.close()

    def cpu(self, arena: Arena) -> Iterator[tuple[str, float]]:
        """The `blake3` package over the same slabs."""
        for threads in (1, blake3.AUTO):

            def digest(threads: int = threads) -> int:
                blake3(arena.slabs, max_threads=threads).digest()
                return len(arena.slabs)

            yield "one core" if threads == 1 else "all cores, one piece", self._rate(digest)

    def _launches(self, data: int, layer: int, batch: int) -> float:
        count = max(1, batch // layer)
        lengths = np.full(count, layer, np.int64)
        plan = plan_pieces(Pieces(np.arange(count) * layer, lengths, 0 * lengths, lengths > 0))
        items = np.concatenate([stage.items for stage in plan.stages]).view(np.uint8)
        stream, tables = self._device.stream(), self._device.allocate(items.nbytes)
        values = self._device.allocate(VALUE * plan.values)
        self._device.copy_in(tables, address(items), items.nbytes, stream)
        start, end = self._device.event(timing=True), self._device.event(timing=True)

        def queued(launches: int) -> float:
            """Milliseconds of a launch: of so many in a row, since one alone is mostly the way to the GPU."""
            start.record(stream)
            for _ in range(launches):
                self._device.launch(plan, data, tables, values, stream)
            end.record(stream)
            end.synchronize()
            return self._device.milliseconds(start, end) / launches

        queued(1)
        launches = max(_LAUNCHES[0], min(_LAUNCHES[1], math.ceil(_QUEUED / queued(1))))
        rates = []
        until = time.perf_counter() + self._seconds
        while time.perf_counter() < until or not rates:
            rates.append(count * layer / queued(launches) / 1e6)
        for pointer in (tables, values):
            self._device.release(pointer)
        return statistics.median(rates)

    def _rate(self, work: Callable[[], int]) -> float:
        """GB/s of something that tells how many bytes it did."""
        work()
        rates = []
        until = time.perf_counter() + self._seconds
        while time.perf_counter() < until or not rates:
            started = time.perf_counter()
            size = work()
            rates.append(size / (time.perf_counter() - started) / 1e9)
        return statistics.median(rates)


def _files(options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    truth = make("identical", options.folder, Scale())
    found = (os.path.join(at, name) for at, _, names in os.walk(os.path.abspath(truth.folder)) for name in names)
    paths = sorted(found)[: options.files]
    work, size = jobs(paths), sum(map(os.path.getsize, paths))
    for hasher in ("cpu", "cuda"):
        with tempfile.TemporaryDirectory() as scratch:
            crew = Crew(scratch, scratch, loaders=options.loaders, hasher=hasher)
            pipeline = Pipeline(crew, told=print)
            try:
                through_the_pipeline(pipeline, work)
                warm = [through_the_pipeline(pipeline, work) for _ in range(5)]
                cold = []
                for _ in range(3):
                    _forget(paths)
                    cold.append(through_the_pipeline(pipeline, work))
                used = pipeline.hasher.using.backend
            finally:
                pipeline.stop()
        for seconds, where in ((warm, "from the page cache"), (cold, "from disk")):
            yield f"{where}, {options.loaders} loaders, {used}", size / statistics.median(seconds) / 1e9


def _forget(paths: Sequence[str]) -> None:
    """Have the kernel drop what it holds of these files."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def _size(count: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count >= unit:
            return f"{count / unit:.0f} {name}"
    return f"{count} bytes"


if __name__ == "__main__":
    main()
