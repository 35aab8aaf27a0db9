"""`python -m bench.publish`: from the core's word to new JSON files on the disk, in a library of many files.

A catalogue of synthetic names is made through the real `Catalog`; the real publisher process is asked over
the real pipeline. Seconds are until it answers, when all five files are replaced and synced.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from lorad.catalog import Catalog, Row
from lorad.pipeline.launch import Crew
from lorad.pipeline.pipeline import Pipeline
from lorad.pipeline.protocol import Publish, Published

_FOLDERS = 40
_LAYOUTS = 60


class Library:
    """Synthetic files: a tenth are copies in pairs, every fiftieth has a second name, a few layouts have most."""

    def __init__(self, state_dir: str, count: int) -> None:
        self.catalog = Catalog(state_dir)
        self.count = count
        self._layouts = [self.catalog.layouts.number(_digest(number), b"") for number in range(_LAYOUTS)]
        self.save(range(count))

    def save(self, numbers: Iterable[int], status: str | None = None) -> list[bytes]:
        """Put files into a new generation; all their names."""
        names: list[bytes] = []
        rows = []
        for number in numbers:
            rows.append(self._row(number, status))
            own = list(_names(number))
            self.catalog.names.save((name, number, 1, None) for name in own)
            names += own
        self.catalog.files.save(rows)
        self.catalog.keep("complete", 1)
        self.catalog.commit(new_generation=True)
        return names

    def newcomer(self, number: int) -> list[bytes]:
        """Add a copy of the file `number`, which may have been unique so far: two rows change."""
        self.count += 1
        twin = self._row(number, "duplicate")
        name = b"/srv/models/loras/%02d/newcomer-%06d.safetensors" % (number % _FOLDERS, self.count)
        self.catalog.files.save([twin, twin._replace(id=self.count, ino=self.count)])
        self.catalog.names.save([(name, self.count, 1, None)])
        self.catalog.commit(new_generation=True)
        return [name, *_names(number)]

    def _row(self, number: int, status: str | None) -> Row:
        weights = number - number % 2 if number % 20 < 2 else number
        layout = self._layouts[min(number % 97, number % _LAYOUTS)]
        told = status or ("duplicate" if number % 20 < 2 else "unique")
        signature = _digest(1000 + weights)
        return Row(
            number, 64769, number, 151_112_664 + weights, 1_700_000_000_123_456_789 + number, 1, 1, told, layout,
            None, 0, "safetensors", signature, signature, 0.012345 + number / 1e9, None, 0, 0,
        )  # fmt: skip


def _names(number: int) -> Iterator[bytes]:
    yield b"/srv/models/loras/%02d/illustration_style_v%06d-000010.safetensors" % (number * 7 % _FOLDERS, number)
    if number % 50 == 7:
        yield b"/srv/models/webui/Lora/link-to-%06d.safetensors" % number


def _digest(number: int) -> bytes:
    return number.to_bytes(4, "big") * 8


class Session:
    """A pipeline whose publisher is asked. `ask` returns the seconds until it had answered."""

    def __init__(self, folder: str, state_dir: str, catalog: Catalog) -> None:
        self._pipeline = Pipeline(Crew(folder, state_dir, loaders=1, hasher="cpu"), told=lambda *_: None)
        self._catalog = catalog

    def ask(self, touched: Sequence[bytes] | None) -> float:
        started = time.perf_counter()
        self._pipeline.publish(Publish(self._catalog.generation, touched))
        while True:
            for event in self._pipeline.poll(1.0):
                if isinstance(event, Published):
                    if event.generation != self._catalog.generation:
                        raise RuntimeError(f"published generation {event.generation}: {event.error}")
                    return time.perf_counter() - started

    def memory(self, field: str) -> int:
        """Of the publisher, in MiB: a field of proc_pid_status(5)."""
        with open(f"/proc/{self._pipeline.children.pids()['publisher']}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) >> 10 for line in file if line.startswith(field))

    def stop(self) -> None:
        self._pipeline.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.publish", description=__doc__)
    parser.add_argument("--files", type=int, default=50_000, help="files in the library (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=15, help="runs whose median counts (default: %(default)s)")
    options = parser.parse_args()
    # On the disk that this repository is on: a folder for temporary files may be in memory.
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), ".corpora")
    os.makedirs(here, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="publish-", dir=here) as folder:
        measure(folder, options.files, options.runs)
        os.chdir(here)


def measure(folder: str, files: int, runs: int) -> None:
    library = Library(folder, files)
    session = Session(folder, folder, library.catalog)
    try:
        first = session.ask(None)
        full = [session.ask(None) for _ in range(min(runs, 3))]
        peak = session.memory("VmHWM:")
        nothing = [session.ask([]) for _ in range(runs)]
        one = [session.ask(library.newcomer((turn * 7919) % files)) for turn in range(runs)]
        size = min(1000, files // 2)
        many = [session.ask(library.save(range(turn, turn + size), "grouped")) for turn in range(min(runs, 5))]
        resident = session.memory("VmRSS:")
    finally:
        session.stop()
        library.catalog.close()
    whole = statistics.median(full)
    table = Table(f"{files:,} files", "median ms", "worst ms", "of full")
    for what, seconds in (
        ("all, from the start of the process", [first]),
        ("all", full),
        ("nothing but the generation", nothing),
        ("one newcomer that is a duplicate", one),
        (f"{size:,} files changed", many),
    ):
        middle = statistics.median(seconds)
        table.add_row(what, f"{middle * 1e3:.1f}", f"{max(seconds) * 1e3:.1f}", f"{middle / whole:.3f}")
    console = Console()
    console.print(table)
    views = sum(
        os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder) if name.endswith(".json")
    )
    console.print(f"JSON {views / 2**20:.1f} MiB; publisher {peak} MiB at most, {resident} MiB resident")


if __name__ == "__main__":
    main()
