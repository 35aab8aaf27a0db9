"""SPEC section 5, may keep: what is read-only or in memory is seen on real file systems."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorad.watch.mounts import Mount, is_volatile, parse
from lorad.watch.storage import Finder, Part, Storage, look

Disk = Callable[[str], str]


@contextmanager
def mounted(*arguments: str) -> Iterator[None]:
    """`mount` with these arguments, the last of which is the folder."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", arguments[-1]], check=True)


def found(folder: str) -> Storage:
    """What is seen of a folder's storage, with a file in it; as it is when the catalogue kept it."""
    storage = look({os.stat(folder).st_dev: os.fsencode(folder)}, [os.fsencode(folder)])
    return msgspec.msgpack.decode(msgspec.msgpack.encode(storage), type=Storage)


def read_only(folder: str) -> bytes | None:
    path = os.path.join(os.fsencode(folder), b"a.safetensors")
    return Finder(found(folder)).read_only(path, os.stat(folder).st_dev)


def test_a_disk_that_can_be_written_says_nothing(disk: Disk) -> None:
    """Then no terms change with what is mounted elsewhere."""
    assert found(disk("ext4")) == Storage()


def test_a_read_only_mount_is_read_only_from_its_mount_point_on(disk: Disk) -> None:
    """SPEC 5: also where the same disk can be written to under another name, and for root."""
    folder = disk("ext4")
    inner, frozen = f"{folder}/inner", f"{folder}/frozen"
    os.makedirs(f"{inner}/x")
    os.mkdir(frozen)
    with mounted("--bind", "-o", "ro", inner, frozen):
        assert read_only(f"{frozen}/x") == os.fsencode(frozen)
        assert read_only(f"{inner}/x") is None
        finder = Finder(found(folder))
        device = os.stat(folder).st_dev
        assert finder.read_only(os.fsencode(f"{frozen}/x/a"), device) == os.fsencode(frozen)
        assert finder.read_only(os.fsencode(f"{inner}/x/a"), device) is None
    assert read_only(frozen) is None


def test_a_disk_that_is_mounted_again_read_only_is_read_only(disk: Disk) -> None:
    """SPEC 5: as the kernel does after an error of the disk."""
    folder = disk("ext4")
    point = os.path.dirname(folder)
    subprocess.run(["mount", "-o", "remount,ro", point], check=True)
    try:
        assert read_only(folder) == os.fsencode(point)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", point], check=True)
    assert read_only(folder) is None


def test_a_read_only_subvolume_is_read_only_though_its_mount_is_not(disk: Disk) -> None:
    """SPEC 5: a snapshot of Btrfs says EROFS to access(2), also to root."""
    folder = disk("btrfs")
    subvolume, snapshot = f"{folder}/models", f"{folder}/snapshot"
    subprocess.run(["btrfs", "-q", "subvolume", "create", subvolume], check=True)
    os.mkdir(f"{subvolume}/inner")
    subprocess.run(["btrfs", "-q", "subvolume", "snapshot", "-r", subvolume, snapshot], check=True)
    try:
        assert read_only(f"{subvolume}/inner") is None
        assert read_only(f"{snapshot}/inner") == os.fsencode(snapshot)
    finally:
        for each in (snapshot, subvolume):
            subprocess.run(["btrfs", "-q", "subvolume", "delete", each], check=True)


def test_what_lies_in_memory_is_seen(disk: Disk) -> None:
    """SPEC 5: tmpfs, and an overlay whose upper layer lies there; not one whose upper layer lies on a disk."""
    memory, ext4 = disk("tmpfs"), disk("ext4")
    for kind in ("lower", "merged"):
        os.mkdir(f"{ext4}/{kind}")
    for folder in (memory, ext4):
        os.mkdir(f"{folder}/upper, with a comma")
        os.mkdir(f"{folder}/work")

    def volatile(folder: str) -> bool:
        return Finder(found(folder)).volatile(os.fsencode(folder) + b"/a")

    assert volatile(memory)
    assert not volatile(ext4)
    merged = f"{ext4}/merged"
    for folder, expected in ((memory, True), (ext4, False)):
        upper = f"upperdir={folder}/upper\\, with a comma,workdir={folder}/work"
        with mounted("-t", "overlay", "-o", f"lowerdir={ext4}/lower,{upper}", "none", merged):
            assert volatile(merged) is expected


def test_layers_of_overlays_are_followed_and_a_circle_ends() -> None:
    """An overlay may lie on another one; what leads round in a circle is in no memory."""
    table = rb"""20 1 0:21 / / rw - ext4 /dev/vda ro
21 20 0:22 / /run rw - tmpfs none rw
22 20 0:23 / /one rw - overlay o rw,lowerdir=/x,upperdir=/run/up\040per,workdir=/run/w
23 20 0:24 / /two ro,nosuid - overlay o rw,lowerdir=/x,upperdir=/one/up,workdir=/one/w
24 20 0:25 / /round rw - overlay o rw,lowerdir=/x,upperdir=/round/up
25 20 0:26 / /relative rw - overlay o rw,upperdir=up
"""
    mounts = {mount.point: mount for mount in parse(table)}
    volatile = {point for point, mount in mounts.items() if is_volatile(list(mounts.values()), mount)}
    assert volatile == {b"/run", b"/one", b"/two"}
    assert {point for point, mount in mounts.items() if mount.read_only} == {b"/", b"/two"}
    assert not is_volatile([], None)
    assert not is_volatile([], Mount(b"/", b"overlay", 1, upper=b"/nowhere"))


FOLDERS = st.lists(st.sampled_from([b"a", b"b"]), max_size=3).map(lambda names: b"/" + b"/".join(names))


@given(
    st.dictionaries(FOLDERS, st.tuples(st.booleans(), st.booleans()), max_size=5), st.lists(FOLDERS, max_size=6)
)
def test_a_file_lies_on_the_mount_around_it(mounts: dict[bytes, tuple[bool, bool]], asked: list[bytes]) -> None:
    """In whatever order they are asked for."""
    finder = Finder(Storage(tuple(Part(folder, *flags) for folder, flags in mounts.items())))
    for folder in asked:
        around = [point for point in mounts if folder == point or folder.startswith(point.rstrip(b"/") + b"/")]
        innermost = max(around, key=len, default=b"/")
        read_only, volatile = mounts.get(innermost, (False, False))
        path = folder.rstrip(b"/") + b"/file"
        assert finder.read_only(path, 7) == (innermost if read_only else None)
        assert finder.volatile(path) == volatile
