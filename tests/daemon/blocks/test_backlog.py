"""What is known of duplicates' blocks follows what happens to them, on real file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lorad.blocks.backlog import Backlog
from lorad.blocks.room import Room, is_placed
from lorad.catalog import Catalog
from lorad.files import File, Files
from lorad.library import Status
from lorad.pipeline.protocol import Identity

SIZE = 1 << 20
Disk = Callable[[str], str]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(Catalog(str(tmp_path)))


def duplicate(files: Files, path: str) -> File:
    """A record of this name, as of a duplicate."""
    name = os.fsencode(path)
    file = files.add(Identity.of(os.stat(name)))
    files.name(file, name)
    files.set_status(file, Status.DUPLICATE)
    return file


def taken(*files: File) -> int:
    room = Room()
    return sum(room.add(file.identity.dev, file.identity.size, file.extents) for file in files)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_sharing_is_seen(disk: Disk, files: Files, kind: str) -> None:
    """Two copies take twice the room of one, a reflink takes none; what a writer takes apart is seen again."""
    folder, backlog = disk(kind), Backlog(files)
    Path(folder, "a").write_bytes(os.urandom(SIZE))
    shutil.copyfile(f"{folder}/a", f"{folder}/b")
    with open(f"{folder}/b", "r+b") as file:  # copyfile may share blocks by itself
        file.write(Path(folder, "a").read_bytes())
    subprocess.run(["cp", "--reflink=always", f"{folder}/a", f"{folder}/c"], check=True)
    os.sync()
    a, b, c = (duplicate(files, f"{folder}/{name}") for name in "abc")
    backlog.add_all()
    while backlog:
        backlog.look(2, 0.0)
    assert (taken(a, b), taken(a, c), taken(a, b, c)) == (2 * SIZE, SIZE, 2 * SIZE)
    with open(f"{folder}/c", "r+b") as file:
        file.write(os.urandom(SIZE // 4))
        os.fsync(file.fileno())
    backlog.add_name(c.names[0])
    backlog.look(1, 0.0)
    assert taken(a, c) == SIZE + SIZE // 4


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_what_is_not_on_the_disk_yet_is_looked_at_again(disk: Disk, files: Files, kind: str) -> None:
    folder, backlog = disk(kind), Backlog(files)
    Path(folder, "a").write_bytes(os.urandom(SIZE))
    a = duplicate(files, f"{folder}/a")
    backlog.add(a)
    backlog.look(1, 100.0)
    assert a.extents
    assert not is_placed(a.extents)
    os.sync()
    backlog.add_written(159.0)
    assert not backlog
    backlog.add_written(160.0)
    backlog.look(1, 160.0)
    assert is_placed(a.extents)
    backlog.add_written(1e9)
    assert not backlog


def test_nothing_is_opened_where_blocks_cannot_be_shared(disk: Disk, files: Files) -> None:
    folder, backlog = disk("ext4"), Backlog(files)
    Path(folder, "a").write_bytes(b"x" * SIZE)
    a = duplicate(files, f"{folder}/a")
    backlog.add_all()
    backlog.look(1, 0.0)
    assert (a.extents, bool(backlog)) == (None, False)


def test_files_that_are_gone_or_others_are_no_trouble(disk: Disk, files: Files) -> None:
    """What was known of them stays until they are met again."""
    folder, backlog = disk("xfs"), Backlog(files)
    for name in "ab":
        Path(folder, name).write_bytes(os.urandom(SIZE))
    os.sync()
    a, b = (duplicate(files, f"{folder}/{name}") for name in "ab")
    backlog.add_all()
    backlog.look(9, 0.0)
    before = a.extents, b.extents
    assert all(before)
    os.unlink(f"{folder}/a")
    os.replace(f"{folder}/b", f"{folder}/a")
    os.symlink(f"{folder}/a", f"{folder}/b")
    backlog.add_all()
    files.forget(a)
    backlog.look(9, 0.0)
    assert (a.extents, b.extents) == before
