"""What is known of duplicates' blocks follows what happens to them, on real file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyConstants

from lorad.blocks.usage import NOWHERE, Room, unpacked
from lorad.catalog import Catalog
from lorad.index import backlog as backlogs
from lorad.index.backlog import Backlog
from lorad.index.known_files import Files
from lorad.index.records import File
from lorad.library import Status
from lorad.pipeline.protocol import Identity
from lorad.watch.inotify import Instance

SIZE = 1 << 20
BLOCK = 4096
Disk = Callable[[str], str]


def looked_through(backlog: Backlog, now: float) -> None:
    """Look at all that waits; one look ends after a while, on a busy machine after the first file."""
    while backlog:
        backlog.look(9, now)


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


def write(path: str, size: int = SIZE, content: bytes = b"") -> bytes:
    """Blocks of its own, on the disk."""
    content = content or os.urandom(size)
    with open(path, "wb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    return content


def reflink(source: str, target: str) -> None:
    subprocess.run(["cp", "--reflink=always", source, target], check=True)


def rewrite(path: str, content: bytes, blocks: range) -> None:
    """The same bytes, in other blocks."""
    with open(path, "r+b", buffering=0) as file:
        for block in blocks:
            file.seek(block * BLOCK)
            file.write(content[block * BLOCK : (block + 1) * BLOCK])
        os.fsync(file.fileno())


def taken(*files: File) -> int:
    room = Room()
    return sum(room.add(file.identity.size, file.extents) for file in files)


def look_at(backlog: Backlog, *files: File) -> None:
    for file in files:
        backlog.add(file)
    while backlog:
        backlog.look(2, 0.0)


@contextmanager
def opened(*folders: str) -> Iterator[list[bytes]]:
    """The names that are opened in these folders meanwhile, once it is over."""
    names: list[bytes] = []
    inotify = Instance()
    try:
        for folder in folders:
            inotify.add(os.fsencode(folder), events=InotifyConstants.IN_OPEN)
        yield names
        names += (event.name for event in inotify.read())
    finally:
        inotify.close()


@contextmanager
def bound(source: str, folder: str) -> Iterator[None]:
    """A folder mounted at another place, too."""
    subprocess.run(["mount", "--bind", source, folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_sharing_is_seen(disk: Disk, files: Files, kind: str) -> None:
    """Two copies take twice the room of one, a reflink takes none; what a writer takes apart is seen again."""
    folder, backlog = disk(kind), Backlog(files)
    content = write(f"{folder}/a")
    write(f"{folder}/b", content=content)
    reflink(f"{folder}/a", f"{folder}/c")
    a, b, c = (duplicate(files, f"{folder}/{name}") for name in "abc")
    look_at(backlog, a, b, c)
    assert (taken(a, b), taken(a, c), taken(a, b, c)) == (2 * SIZE, SIZE, 2 * SIZE)
    rewrite(f"{folder}/c", content, range(64))
    backlog.add_name(c.names[0])
    backlog.look(1, 0.0)
    assert taken(a, c) == SIZE + 64 * BLOCK


def test_parts_of_compressed_files_are_told_apart(disk: Disk, files: Files) -> None:
    """Btrfs says of each part of a compressed extent that it lies where the whole begins."""
    folder, backlog = disk("btrfs"), Backlog(files)
    subprocess.run(["btrfs", "property", "set", folder, "compression", "zstd"], check=True)
    content = write(f"{folder}/a", content=bytes(byte & 3 for byte in os.urandom(SIZE)))
    reflink(f"{folder}/a", f"{folder}/b")
    a = duplicate(files, f"{folder}/a")
    rewrite(f"{folder}/b", content, range(50, 51))
    b = duplicate(files, f"{folder}/b")
    look_at(backlog, a, b)
    assert a.extents
    assert all(distance >= 1 << 62 for _, _, distance in unpacked(a.extents))
    assert taken(a, b) == SIZE + BLOCK


def test_subvolumes_share(disk: Disk, files: Files) -> None:
    """Each has a device number of its own, and they are one file system."""
    folder, backlog = disk("btrfs"), Backlog(files)
    subprocess.run(["btrfs", "-q", "subvolume", "create", f"{folder}/inner"], check=True)
    write(f"{folder}/a")
    reflink(f"{folder}/a", f"{folder}/inner/b")
    a, b = duplicate(files, f"{folder}/a"), duplicate(files, f"{folder}/inner/b")
    assert a.identity.dev != b.identity.dev
    look_at(backlog, a, b)
    assert taken(a, b) == SIZE


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_files_in_many_pieces_share_all_or_nothing(disk: Disk, files: Files, kind: str) -> None:
    """And however many they are, little is kept of them."""
    folder, backlog = disk(kind), Backlog(files)
    content = write(f"{folder}/old", 6 * SIZE)
    reflink(f"{folder}/old", f"{folder}/a")
    rewrite(f"{folder}/a", content, range(0, len(content) // BLOCK, 2))
    for name in "bc":
        reflink(f"{folder}/a", f"{folder}/{name}")
    rewrite(f"{folder}/c", content, range(1))
    a, b, c = (duplicate(files, f"{folder}/{name}") for name in "abc")
    look_at(backlog, a, b, c)
    assert (taken(a, b), taken(a, c)) == (len(content), 2 * len(content))
    assert a.extents
    assert len(a.extents) < 100


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_what_is_not_on_the_disk_yet_is_looked_at_again(
    disk: Disk, files: Files, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute later, also where it seems to lie in the blocks that it is written over; not for ever."""
    folder, backlog = disk(kind), Backlog(files)
    content = write(f"{folder}/a")
    reflink(f"{folder}/a", f"{folder}/over")
    for name in ("over", "new"):
        with open(f"{folder}/{name}", "r+b" if name == "over" else "wb") as file:
            file.write(content)
    a, over, new = (duplicate(files, f"{folder}/{name}") for name in ("a", "over", "new"))
    for file in (a, over, new):
        backlog.add(file)
    looked_through(backlog, 100.0)
    assert new.extents
    assert [distance for _, _, distance in unpacked(new.extents)] == [NOWHERE]
    os.sync()
    backlog.add_written(159.0)
    assert not backlog
    backlog.add_written(160.0)
    monkeypatch.setattr(backlogs, "WRITTEN", 0.0)
    looked_through(backlog, 160.0)
    assert taken(a, over, new) == 3 * SIZE
    backlog.add_written(1e9)
    assert not backlog


def test_all_in_a_folder_are_looked_at_and_no_others(disk: Disk, files: Files) -> None:
    folder, backlog = disk("xfs"), Backlog(files)
    for name in ("in", "in/deep", "in-not"):
        os.mkdir(f"{folder}/{name}")
        write(f"{folder}/{name}/a")
    found = [duplicate(files, f"{folder}/{name}/a") for name in ("in", "in/deep", "in-not")]
    backlog.add_under(os.fsencode(f"{folder}/in"))
    looked_through(backlog, 0.0)
    assert [file.extents is not None for file in found] == [True, True, False]


def test_nothing_is_opened_where_blocks_cannot_be_shared(disk: Disk, files: Files) -> None:
    """Nor where a link leads there from where they can."""
    here, there, backlog = disk("ext4"), disk("xfs"), Backlog(files)
    write(f"{here}/a")
    write(f"{here}/b")
    os.symlink(here, f"{there}/link")
    a, b = duplicate(files, f"{here}/a"), duplicate(files, f"{there}/link/b")
    with opened(here) as names:
        look_at(backlog, a, b)
    assert (a.extents, b.extents, names) == (None, None, [])


def test_links_lead_to_where_blocks_are_shared(disk: Disk, files: Files) -> None:
    """Links to files and to folders, from where they cannot be shared."""
    here, there, backlog = disk("ext4"), disk("xfs"), Backlog(files)
    write(f"{there}/a")
    reflink(f"{there}/a", f"{there}/b")
    os.symlink(f"{there}/a", f"{here}/a")
    os.symlink(there, f"{here}/link")
    write(f"{here}/c")
    found = [duplicate(files, f"{here}/{name}") for name in ("c", "a", "link/b")]
    with opened(here, there) as names:
        look_at(backlog, *found)
    assert (taken(*found), sorted(names)) == (2 * SIZE, [b"a", b"b"])


def test_files_that_are_gone_or_others_are_no_trouble(disk: Disk, files: Files) -> None:
    """What was known of them stays until they are met again; what stands in their place is not opened."""
    folder, backlog = disk("xfs"), Backlog(files)
    found = []
    for name in ("gone", "other", "link", "unique", "forgotten"):
        write(f"{folder}/{name}")
        found.append(duplicate(files, f"{folder}/{name}"))
    look_at(backlog, *found)
    before = [file.extents for file in found]
    assert None not in before
    write(f"{folder}/stranger", 2 * SIZE)
    write(f"{folder}/new")
    os.unlink(f"{folder}/gone")
    os.replace(f"{folder}/new", f"{folder}/other")
    os.unlink(f"{folder}/link")
    os.symlink(f"{folder}/stranger", f"{folder}/link")
    for file in found:
        backlog.add(file)
    files.set_status(found[3], Status.UNIQUE)
    files.forget(found[4])
    with opened(folder) as names:
        look_at(backlog)
    assert ([file.extents for file in found], names) == (before, [])


def test_what_is_known_stays_while_a_disk_is_away(disk: Disk, files: Files, tmp_path: Path) -> None:
    """And what is mounted then is asked anew."""
    source, folder = disk("xfs"), disk("ext4")
    write(f"{source}/a")
    os.mkdir(f"{folder}/mount")
    write(f"{folder}/b")
    backlog = Backlog(files)
    with bound(source, f"{folder}/mount"):
        a, b = duplicate(files, f"{folder}/mount/a"), duplicate(files, f"{folder}/b")
    look_at(backlog, a, b)
    assert (a.extents, b.extents) == (None, None)
    with bound(source, f"{folder}/mount"):
        look_at(backlog, a)
    known = a.extents
    assert known is not None
    shutil.copy(f"{source}/a", f"{folder}/mount/a")
    look_at(backlog, a, b)
    assert (a.extents, b.extents) == (known, None)
