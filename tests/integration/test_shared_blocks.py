"""Space that reflinks already share is not counted as waste, by the whole program on real file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loractl import Client
from lorad.dedupe.action import reflink
from tests.builders import architectures
from tests.builders.weights import random_weights
from tests.builders.write import write_safetensors
from tests.integration.running import running
from tests.integration.scanning import loractl, scan, view

SPECS = architectures.sd15(4, width=16, every=6)
#: Where files can share blocks.
KINDS = ("xfs", "btrfs")
Disk = Callable[[str], str]


def library(folder: str) -> int:
    """A file, a copy, a reflink, and a reflink whose metadata was edited in place; the size of each."""
    weights = random_weights(SPECS, 1)
    first = write_safetensors(f"{folder}/1.safetensors", weights, metadata={"title": "x" * 9000}, padding=2000)
    os.utime(first, ns=(0, 0))
    write_safetensors(f"{folder}/copy.safetensors", weights, metadata={"title": "x" * 9000}, padding=2000)
    for name in ("reflink", "edited"):
        command = ["cp", "--reflink=always", first, f"{folder}/{name}.safetensors"]
        subprocess.run(command, check=True)
    edit(Path(folder, "edited.safetensors"))
    os.sync()
    return os.path.getsize(first)


def edit(path: Path) -> None:
    """Another title, in the same place."""
    content = path.read_bytes()
    at = content.index(b"xxx")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"yyy")


def join(kept: str, gone: str) -> None:
    """What a program such as duperemove does."""
    with open(kept, "rb") as source, open(gone, "r+b") as target:
        size = os.fstat(source.fileno()).st_size
        assert reflink.share_range(source.fileno(), target.fileno(), 0, size) == size


def said(client: Client, state: Path) -> set[int]:
    """What the views and the answers say is wasted."""
    files: list[dict[str, Any]] = [view(state, "duplicates"), view(state, "statistics")]
    listed = list(client.duplicates())
    return {*(one["wasted_bytes"] for one in files), sum(one.wasted_bytes for one in listed)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_counts_what_is_not_shared(disk: Disk, tmp_path: Path, kind: str) -> None:
    """And a later one sees what another program has shared, though no time stamp tells of it."""
    folder = disk(kind)
    size, state = library(folder), tmp_path / "state"
    report = scan(Path(folder), state).report
    edited = report["wasted_bytes"] - size
    assert 0 < edited <= 16384, "a block or two of the edited one are its own"
    assert report["duplicate_sets"] == 1
    again = scan(Path(folder), state).report
    assert (again["wasted_bytes"], again["generation"]) == (size + edited, report["generation"])
    join(f"{folder}/1.safetensors", f"{folder}/copy.safetensors")
    later = scan(Path(folder), state).report
    assert (later["wasted_bytes"], later["generation"]) == (edited, report["generation"] + 1)
    assert later["bytes_read"] == 0


def test_where_blocks_cannot_be_shared_sizes_count(disk: Disk, tmp_path: Path) -> None:
    folder = disk("ext4")
    for name in "ab":
        write_safetensors(f"{folder}/{name}.safetensors", random_weights(SPECS, 1))
    report = scan(Path(folder), tmp_path / "state").report
    assert report["wasted_bytes"] == os.path.getsize(f"{folder}/a.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_the_views_follow_what_lorad_shares(disk: Disk, tmp_path: Path, kind: str) -> None:
    """By `dedupe` with reflink, its undo, and where a newcomer is a reflink itself."""
    folder = disk(kind)
    size = library(folder)
    os.unlink(f"{folder}/edited.safetensors")
    with running(tmp_path / "daemon", Path(folder)) as daemon, daemon.client() as client:
        socket = ("--socket", str(daemon.runtime / "control.sock"))
        assert said(client, daemon.state) == {size}
        assert client.plan_dedupe("reflink").bytes == size
        assert client.apply_dedupe("reflink").done == 1
        daemon.settle()
        assert said(client, daemon.state) == {0}
        assert loractl("audit", *socket).returncode == 0
        command = ["cp", "--reflink=always", f"{folder}/1.safetensors", f"{folder}/newcomer.safetensors"]
        subprocess.run(command, check=True)
        daemon.settle()
        assert said(client, daemon.state) == {0}
        shutil.copyfile(f"{folder}/1.safetensors", f"{folder}/other.safetensors")
        with open(f"{folder}/other.safetensors", "r+b") as file:
            # The copy may share blocks; what is written anew shares none.
            file.write(Path(folder, "1.safetensors").read_bytes())
        daemon.settle()
        assert said(client, daemon.state) == {size}
        assert client.undo(all=True).done == 1
        daemon.settle()
        # Btrfs has no call that takes blocks apart.
        assert said(client, daemon.state) == {2 * size if kind == "xfs" else size}
        assert loractl("audit", *socket).returncode == 0
