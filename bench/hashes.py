"""`python -m bench.hashes`: all identity hashes of one file, beside `openssl dgst -sha256` and hash after hash.

The file is made if it is not there, 200 MB as SDXL's layers lie, and read from the page cache. Each row is the
best of its runs, which take turns, so that what else the machine does hits all alike.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable

from blake3 import blake3
from rich.console import Console
from rich.table import Table
from tests.builders.architectures import sdxl
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors

import lorakit
from bench.machine import describe

#: What openssl's time may be multiplied by.
_BOUND = 1.6


def one_after_the_other(path: str) -> None:
    """What a tool does that has a function for each hash: five reads of the file."""
    _whole(path, hashlib.sha256().update)
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    _whole(path, hashlib.sha256().update, start)
    with open(path, "rb") as file:
        file.seek(0x100000)
        hashlib.sha256(file.read(0x10000))
    _whole(path, blake3().update)
    crc = 0

    def checked(block: bytes) -> None:
        nonlocal crc
        crc = zlib.crc32(block, crc)

    _whole(path, checked)


def _whole(path: str, update: Callable[[bytes], object], start: int = 0) -> None:
    with open(path, "rb") as file:
        file.seek(start)
        while block := file.read(1 << 20):
            update(block)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hashes", description=__doc__)
    parser.add_argument("--folder", default="bench/.corpora", help="where the file lies (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=9, help="of which the best counts (default: %(default)s)")
    options = parser.parse_args()
    console = Console()
    openssl = shutil.which("openssl")
    if openssl is None:
        console.print("openssl is not installed, and so there is nothing to compare with")
        return 1
    os.makedirs(options.folder, exist_ok=True)
    path = os.path.join(options.folder, "hashes.safetensors")
    if not os.path.exists(path):
        write_safetensors(path, random_weights(sdxl(28), 1), metadata={"ss_network_dim": "28"})
    command = [openssl, "dgst", "-sha256", path]
    ours = [sys.executable, "-m", "loractl.cli", "hashes", path, "--local", "--json"]
    rows: dict[str, Callable[[], object]] = {
        "openssl dgst -sha256": lambda: subprocess.run(command, check=True, capture_output=True),
        "all hashes: lorakit.hashes": lambda: lorakit.hashes(path),
        "all hashes: loractl hashes, with its start": lambda: subprocess.run(
            ours, check=True, capture_output=True
        ),
        "one hash after the other (no legacy hash)": lambda: one_after_the_other(path),
    }
    seconds = dict.fromkeys(rows, float("inf"))
    for _ in range(options.runs):
        for name, run in rows.items():
            started = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    base = next(iter(seconds.values()))
    machine = describe(options.folder)
    table = Table("", "s", "× openssl", title=f"{os.path.getsize(path) / 1e6:.0f} MB; {machine['cpu']}")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}", f"{value / base:.2f}")
    console.print(table)
    met = seconds["all hashes: lorakit.hashes"] <= _BOUND * base
    console.print(f"at most {_BOUND} × openssl: {'yes' if met else 'no'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
