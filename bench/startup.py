"""`python -m bench.startup`: what a scan costs before it reads weights, and how that grows with the library.

Wall time of `loractl scan` in an empty folder, with three files, again on unchanged files, and on 10,000,
30,000 and 100,000 small files, with the peak resident memory of the core process.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from tests.builders.architectures import sd15
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors

from bench.corpus import make
from bench.measure import Measurement, run
from bench.peers import loractl
from bench.recipes import Scale

_SIZES = (10_000, 30_000, 100_000)
#: The core's command line, as against those of its loaders and its hasher (`lorad.pipeline.…`).
_CORE = re.compile(r"(-m lorad(\.scan)?|/lorad)( |$)")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--folder", default="bench/.corpora", help="where the corpora lie")
    parser.add_argument("--runs", type=int, default=5, help="runs whose median counts (default: %(default)s)")
    parser.add_argument("--files", type=int, nargs="+", default=_SIZES, help="sizes of the small libraries")
    options = parser.parse_args()
    console = Console()
    table = Table("library", "first scan s", "again s", "µs a file", "core MiB")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name, count in (("empty", 0), ("three files", 3)):
            table.add_row(name, *_row(_library(os.path.join(folder, name), count), count, options.runs))
    for count in options.files:
        truth = make("small", os.path.join(options.folder, f"small-{count}"), Scale(files=count))
        table.add_row(
            f"{count:,} small files", *_row(truth.folder, count, runs=1 if count > 10_000 else options.runs)
        )
    console.print(table)


def core_memory(resident: Mapping[str, int]) -> int:
    """Peak resident memory of the core, in bytes; 0 where no process of that name was seen."""
    return max((peak for command, peak in resident.items() if _CORE.search(command)), default=0)


def _row(folder: str, count: int, runs: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        sampled = _scan(folder, os.path.join(scratch, "sampled"), memory=True)
        first, again = [], []
        for turn in range(runs):
            state = os.path.join(scratch, str(turn))
            first.append(_scan(folder, state).seconds)
            again.append(_scan(folder, state).seconds)
    fresh = statistics.median(first)
    each = f"{fresh / count * 1e6:.0f}" if count > 3 else "–"
    core = core_memory(sampled.resident)
    return [
        f"{fresh:.3f}",
        f"{statistics.median(again):.3f}",
        each,
        f"{core / 2**20:.0f}" if core else "not seen",
    ]


def _scan(folder: str, scratch: str, *, memory: bool = False) -> Measurement:
    os.makedirs(scratch, exist_ok=True)
    measurement = run(loractl().command(folder, scratch), cwd=scratch, memory=memory)
    if measurement.status:
        raise RuntimeError(measurement.stderr.decode(errors="replace"))
    return measurement


def _library(folder: str, count: int) -> str:
    os.mkdir(folder)
    for index in range(count):
        write_safetensors(os.path.join(folder, f"{index}.safetensors"), random_weights(sd15(4), index))
    return folder


if __name__ == "__main__":
    main()
