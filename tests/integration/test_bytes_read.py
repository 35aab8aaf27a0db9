"""The bytes that are reported as read are those that the system calls read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import library_order, save_checkpoint, write_safetensors

READ = re.compile(r"(?:pread64|preadv2?|read|readv)\(\d+<(?P<path>.*?)>, .* = (?P<count>\d+)$")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_reported_bytes_are_what_the_system_calls_read(tmp_path: Path) -> None:
    """SPEC 2.5: `bytes_read` is what was really read: headers, samples, layers and what lies between."""
    folder = tmp_path / "loras"
    folder.mkdir()
    specs = architectures.sd15(8, width=1, every=6)
    for seed in range(6):
        write_safetensors(str(folder / f"{seed}.safetensors"), random_weights(specs, seed))
    layers = random_weights(specs, 0)
    write_safetensors(str(folder / "copy.safetensors"), layers, order=library_order(layers)[::-1])
    save_checkpoint(str(folder / "zip.pt"), layers)
    save_checkpoint(str(folder / "legacy.pt"), layers, legacy=True)
    (folder / "cut.safetensors").write_bytes((folder / "0.safetensors").read_bytes()[:-1])
    log = tmp_path / "strace.log"
    command = [
        "strace", "-ff", "-y", "-s", "0", "-o", str(log), "-e", "trace=read,readv,pread64,preadv,preadv2,mmap",
        sys.executable, "-m", "loractl.cli", "scan", "--json", "--state-dir", str(tmp_path / "state"), str(folder),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(ended.stdout)
    read = 0
    lines = [line for part in tmp_path.glob("strace.log.*") for line in part.read_text().splitlines()]
    for line in lines:
        if str(folder) in line:
            assert "mmap(" not in line, "a mapped file that shrinks would be a SIGBUS"
            found = READ.search(line)
            read += int(found["count"]) if found else 0
    assert report["duplicate_sets"] == 1
    assert report["bytes_read"] == read
