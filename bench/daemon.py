"""`python -m bench.daemon`: what a running daemon costs, and how fast it answers.

Start with a large catalogue, idle cost, the time from a newcomer's rename to `duplicates.json` naming it, and
the latency of `status` while layers are digested.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table
from tests.integration.running import Running

from bench.corpus import make
from bench.recipes import Scale

_SETTLE = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.daemon", description=__doc__)
    parser.add_argument("--folder", default="bench/.corpora", help="where the corpora lie")
    parser.add_argument("--catalogued", type=int, default=100_000, help="files of the large catalogue")
    parser.add_argument("--library", type=int, default=50_000, help="files of the newcomers' library")
    parser.add_argument("--newcomers", type=int, default=20)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds of idleness to measure")
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    table = Table("figure", "measured", title="the daemon")
    for count, measures in (
        (options.catalogued, _large(options.idle)),
        (options.library, _arrivals(options.newcomers)),
    ):
        truth = make("small", os.path.join(options.folder, f"small-{count}"), Scale(files=count))
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            measures(Path(truth.folder), Path(scratch), table)
    truth = make("identical", options.folder, Scale())
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        _answers(Path(truth.folder), Path(scratch), table, options.requests)
    Console().print(table)


Measure = Callable[[Path, Path, Table], None]


def _large(idle: float) -> Measure:
    def measure(library: Path, scratch: Path, table: Table) -> None:
        daemon = Running(scratch, [library], settle_seconds=_SETTLE, rescan_seconds=3600.0)
        with daemon:
            daemon.settle(600)
            count = _files(daemon)
            daemon.stop()
            table.add_row(f"READY with {count:,} catalogued files", f"{daemon.start():.2f} s")
            started = time.monotonic()
            daemon.settle(600)
            table.add_row("  … and looked through again after", f"{time.monotonic() - started:.1f} s more")
            core = psutil.Process(daemon.pid)
            table.add_row("  resident memory of the core", f"{core.memory_info().rss >> 20} MiB")
            everyone = [core, *core.children()]
            before = [(process.cpu_times(), process.io_counters().write_bytes) for process in everyone]
            threading.Event().wait(idle)
            after = [(process.cpu_times(), process.io_counters().write_bytes) for process in everyone]
            used = sum(b.user + b.system - a.user - a.system for (a, _), (b, _) in zip(before, after, strict=True))
            written = sum(b - a for (_, a), (_, b) in zip(before, after, strict=True))
            table.add_row(f"idle for {idle:.0f} s: of one core", f"{100 * used / idle:.2f} %")
            table.add_row("  written to disk", f"{written} bytes")
            started = time.monotonic()
            daemon.stop()
            table.add_row("  stopped after", f"{time.monotonic() - started:.2f} s")

    return measure


def _arrivals(newcomers: int) -> Measure:
    def measure(library: Path, scratch: Path, table: Table) -> None:
        incoming = scratch / "incoming"
        incoming.mkdir()
        with Running(scratch, [library, incoming], settle_seconds=_SETTLE) as daemon:
            daemon.settle(600)
            count = _files(daemon)
            original = next(iter(sorted(library.rglob("*.safetensors"))))
            took = []
            for number in range(newcomers):
                part, final = incoming / "x.part", incoming / f"{number}.safetensors"
                shutil.copyfile(original, part)
                with daemon.client() as client, client.events(["published"]) as events:
                    client.status()
                    started = time.monotonic()
                    part.rename(final)
                    while True:
                        events.next(timeout=30)
                        named = time.monotonic()
                        levels = json.loads((daemon.state / "duplicates.json").read_text())["levels"]
                        if str(final) in levels:
                            took.append(named - started - _SETTLE)
                            break
                daemon.settle()
        worst, middle = max(took), statistics.median(took)
        table.add_row(
            f"from rename to duplicates.json, in {count:,} files, beyond settling",
            f"{middle * 1000:.0f} ms (worst of {newcomers}: {worst * 1000:.0f} ms)",
        )

    return measure


def _answers(library: Path, scratch: Path, table: Table, requests: int) -> None:
    """Latency of `status` while the library is scanned anew, again and again."""
    took: list[float] = []
    while len(took) < requests:
        with Running(scratch, [library], settle_seconds=_SETTLE) as daemon, daemon.client() as client:
            while len(took) < requests:
                started = time.perf_counter()
                state = client.status().state
                took.append(time.perf_counter() - started)
                if state == "idle":
                    break
        shutil.rmtree(daemon.state)
    took.sort()
    half, high = took[len(took) // 2], took[int(len(took) * 0.99)]
    table.add_row(
        f"status while digesting, {len(took):,} requests",
        f"median {half * 1000:.1f} ms, 99th percentile {high * 1000:.1f} ms",
    )


def _files(daemon: Running) -> int:
    with daemon.client() as client:
        return client.status().files_total


if __name__ == "__main__":
    main()
