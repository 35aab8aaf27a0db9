"""`python -m bench.fullhash`: loaders, arena and hasher against one process that reads and hashes.

On the corpus `identical` everything is a duplicate, so a scan must hash every byte. Wall time of whole
processes, start-up included, warm.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile

from rich.console import Console
from rich.table import Table

from bench.corpus import make
from bench.measure import run
from bench.peers import loractl
from bench.recipes import Scale

_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "read_and_hash.py")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fullhash", description=__doc__)
    parser.add_argument("--folder", default="bench/.corpora", help="where the corpora lie")
    parser.add_argument("--runs", type=int, default=5, help="runs whose median counts (default: %(default)s)")
    options = parser.parse_args()
    truth = make("identical", options.folder, Scale())
    cores = len(os.sched_getaffinity(0))
    plain = [sys.executable, _SCRIPT, truth.folder]
    contenders = {
        "loractl scan": None,
        "read + BLAKE3, 1 thread": [*plain, "1"],
        f"read + BLAKE3, {cores} threads": [*plain, str(cores)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    # In turns, so that a busy moment of the machine falls on all of them. The first turn warms up.
    for turn in range(options.runs + 1):
        for name, command in contenders.items():
            elapsed = _run(command, truth.folder)
            if turn:
                seconds[name].append(elapsed)
    table = Table(
        "",
        "median s",
        "GB/s",
        "loractl is faster by",
        title=f"{truth.bytes_total / 1e9:.2f} GB on {cores} cores",
    )
    ours = statistics.median(seconds["loractl scan"])
    for name, values in seconds.items():
        median = statistics.median(values)
        table.add_row(name, f"{median:.2f}", f"{truth.bytes_total / 1e9 / median:.2f}", f"{median / ours:.2f} ×")
    Console().print(table)


def _run(command: list[str] | None, folder: str) -> float:
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        measurement = run(command or loractl().command(folder, scratch), cwd=scratch)
    if measurement.status:
        raise RuntimeError(measurement.stderr.decode(errors="replace"))
    return measurement.seconds


if __name__ == "__main__":
    main()
