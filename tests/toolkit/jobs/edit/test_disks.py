"""`edit` on real file systems: shared blocks where there are such, and whole files on all of them."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lorad.blocks.extents import unshared_bytes
from tests.toolkit.jobs.edit.files import data_of, edit, left, look, lora

#: For user 1234 to read it, in the kernel's form (linux/posix_acl_xattr.h).
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 2**32 - 1), (2, 4, 1234), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 4, 2**32 - 1))
)
Disk = Callable[[str], str]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_data_and_times_are_kept(disk: Disk, kind: str) -> None:
    """With extended attributes and an ACL where the file system has them; undo restores them too."""
    folder = Path(disk(kind))
    path = lora(folder / "a.safetensors")
    os.setxattr(path, "user.note", b"mine")
    os.setxattr(path, "system.posix_acl_access", ACL)
    before, seen, data = path.read_bytes(), look(path), data_of(path)
    found = edit(path, title="x", set={"long": "y" * 9000}, apply=True)
    assert found.files[0].state == "done", found
    assert (data_of(path), look(path)) == (data, seen)
    assert found.id is not None
    edit(undo=(found.id,))
    assert (path.read_bytes(), look(path)) == (before, seen)
    assert not left(folder)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_blocks_are_shared(disk: Disk, kind: str) -> None:
    """A copy of the file that shares its blocks shares them with the edited one as well, and after undo."""
    folder = Path(disk(kind))
    path, copy = lora(folder / "a.safetensors"), folder / "copy.safetensors"
    subprocess.run(["cp", "--reflink=always", path, copy], check=True)
    found = edit(path, title="x", set={"long": "y" * 9000}, apply=True)
    (file,) = found.files
    size = path.stat().st_size
    assert file.shared + file.copied == len(data_of(path))
    assert file.copied < 4096
    assert found.id is not None
    for _ in range(2):
        with path.open("rb") as opened:
            assert unshared_bytes(opened.fileno()) <= size - file.shared + 4096
        assert data_of(path) == data_of(copy)
        edit(undo=(found.id,))


def test_a_full_disk_leaves_the_file(disk: Disk) -> None:
    """The reason says so."""
    folder = Path(disk("tmpfs"))
    path = lora(folder / "a.safetensors")
    before = path.read_bytes()
    room = os.statvfs(folder)
    with (folder / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, room.f_bavail * room.f_frsize - 20_000)
    (file,) = edit(path, title="x", apply=True).files
    assert (file.state, "no space" in file.reason) == ("refused", True), file
    assert path.read_bytes() == before
    assert not left(folder)
