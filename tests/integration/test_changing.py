"""Files that change or vanish while they are read: nothing is concluded from what they were."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tests.builders import architectures
from tests.builders.write import write_sparse
from tests.integration.scanning import Embedded, duplicate_sets, view

SIZE = 2 << 30


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal files with one layer that takes a while to read."""
    folder = tmp_path / "loras"
    folder.mkdir()
    paths = [folder / "a.safetensors", folder / "b.safetensors"]
    for path in paths:
        write_sparse(str(path), [architectures.LayerSpec("big", "U8", (SIZE,))])
    return paths[0], paths[1]


def wait_until_half_read(embedded: Embedded, path: Path) -> None:
    """Return as soon as a process is in the middle of `path`."""
    while embedded.process.poll() is None:
        for child in embedded.children():
            try:
                opened = {os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")}
                if str(path) in opened and child.io_counters().read_chars % SIZE > SIZE // 4:
                    return
            except (OSError, psutil.NoSuchProcess):
                continue
    pytest.fail("the scan ended before it could be disturbed")


def test_a_write_behind_the_reader_is_noticed(twins: tuple[Path, Path], tmp_path: Path) -> None:
    """A byte that was read already changes, and size and mtime are as before: the twins are told apart."""
    embedded = Embedded(twins[0].parent, tmp_path / "state", loaders=1)
    wait_until_half_read(embedded, twins[0])
    before = os.stat(twins[0])
    with twins[0].open("r+b") as file:
        file.seek(before.st_size - SIZE + 1000)
        file.write(b"x")
    os.utime(twins[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert embedded.finish() == 0
    assert duplicate_sets(tmp_path / "state") == set()
    assert {row["status"] for row in view(tmp_path / "state", "processed")["files"].values()} == {"unique"}


def test_a_file_that_vanishes_while_it_is_read_is_gone(twins: tuple[Path, Path], tmp_path: Path) -> None:
    """What is not there any more is in no view, and its twin is unique."""
    embedded = Embedded(twins[0].parent, tmp_path / "state", loaders=1)
    wait_until_half_read(embedded, twins[0])
    twins[0].unlink()
    assert embedded.finish() == 0
    files = view(tmp_path / "state", "processed")["files"]
    assert {path: row["status"] for path, row in files.items()} == {str(twins[1]): "unique"}


def test_a_file_that_moves_while_it_is_read_is_found_again(twins: tuple[Path, Path], tmp_path: Path) -> None:
    """A rename to another file's name, and a hard link to a vanished one: the end agrees with the disk."""
    link = twins[0].with_name("c.safetensors")
    os.link(twins[0], link)
    embedded = Embedded(twins[0].parent, tmp_path / "state", loaders=1)
    wait_until_half_read(embedded, twins[0])
    twins[0].unlink()
    assert embedded.finish() == 0
    assert duplicate_sets(tmp_path / "state") == {frozenset([str(twins[1]), str(link)])}
