"""Every action on real file systems, and what blocks the files lie in afterwards."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from lorad.blocks.extents import own_ranges, unshared_bytes
from lorad.dedupe.action import reflink
from lorad.dedupe.action.order import Order, Refused
from tests.builders.write import write_safetensors
from tests.daemon.dedupe.world import GONE, World, act, dies_at, look, make_world, read, side, take_back

Disk = Callable[[str], str]
SHARING = ("xfs", "btrfs")
CASES = [
    ("hardlink", "file"), ("symlink", "file"), ("symlink", "tensors"), ("delete", "file"), ("delete", "tensors"),
    ("quarantine", "file"), ("quarantine", "tensors"),
]  # fmt: skip
SHARE = ("compared", "planned", "shared", "put aside", "synced", "done")
KINDS = ("ext4", "xfs", "btrfs", "tmpfs")


def _physical(path: bytes) -> list[tuple[str, str, bool]]:
    """What another program says: (logical range, physical range, shared) of each extent."""
    if shutil.which("filefrag") is None:
        pytest.skip("filefrag is not installed")
    done = subprocess.run(["filefrag", "-v", "-s", path], capture_output=True, text=True, check=True)
    found = re.findall(r"^\s*\d+:\s+(\d+\.\. *\d+):\s+(\d+\.\. *\d+):\s+\d+:(.*)$", done.stdout, re.MULTILINE)
    return [(logical, physical, "shared" in flags) for logical, physical, flags in found]


def _shared(world: World) -> int:
    with open(world.kept, "rb") as kept, open(world.gone, "rb") as gone:
        return os.path.getsize(world.gone) - sum(length for _, length in own_ranges(kept.fileno(), gone.fileno()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("action", "level"), CASES)
def test_every_action_can_be_undone(disk: Disk, kind: str, action: str, level: str) -> None:
    """On every file system, undo brings back bytes, mode, owner, times and extended attributes."""
    world = make_world(disk(kind), level=level)
    before = world.look()
    for freed in (False, True):
        number = world.apply(action, level, sidecars="move").id
        assert GONE not in world.look() or look(world.gone) != before[GONE]
        if freed:
            assert world.free(number).state in ("freed", "linked")
        world.undo(number)
        assert world.look() == before
    assert not world.leftovers()


@pytest.mark.parametrize("kind", SHARING)
def test_reflink_shares_blocks(disk: Disk, kind: str) -> None:
    """Both files lie in the same blocks afterwards, flagged as shared, and nothing else of them has changed."""
    world = make_world(disk(kind))
    before, identity = world.look(), os.stat(world.gone)
    assert not _shared(world)
    result = world.apply("reflink")
    assert (result.state, result.bytes) == ("shared", identity.st_size)
    subprocess.run(["sync", "-f", world.gone], check=True)
    extents = _physical(world.gone)
    assert extents
    assert extents == _physical(world.kept)
    assert all(shared for _, _, shared in extents)
    assert world.look() == before
    assert os.stat(world.gone).st_ino == identity.st_ino
    assert world.apply("reflink").state == "nothing"
    assert world.savings().saved == identity.st_size


@pytest.mark.parametrize("kind", SHARING)
def test_undo_of_reflink_takes_blocks_apart_where_it_can(disk: Disk, kind: str) -> None:
    """XFS gives the file blocks of its own again; elsewhere there is nothing to bring back. Times stay."""
    world = make_world(disk(kind))
    before = world.look()
    result = world.apply("reflink")
    undone = world.undo(result.id)
    assert undone.state == "undone"
    assert world.look() == before
    if kind == "xfs":
        assert not _shared(world)
    else:
        assert "nothing had to be brought back" in undone.text


@pytest.mark.parametrize("leaves", [True, False])
def test_undo_of_reflink_waits_a_moment_for_who_has_the_file_open(disk: Disk, leaves: bool) -> None:
    """As lorad itself has for its blocks; who stays is not waited for."""
    world = make_world(disk("xfs"))
    result = world.apply("reflink")
    reader = os.open(world.gone, os.O_RDONLY)
    closing = threading.Timer(0.1, os.close, [reader])
    if leaves:
        closing.start()
        assert world.undo(result.id).state == "undone"
        closing.join()
    else:
        with pytest.raises(Refused, match="somebody has it open"):
            world.undo(result.id)
        os.close(reader)
        assert world.undo(result.id).state == "undone"


@pytest.mark.parametrize("kind", SHARING)
def test_what_is_shared_already_is_not_counted(disk: Disk, kind: str) -> None:
    """Only blocks that are not shared yet are shared and counted; links that free none save none."""
    world = make_world(disk(kind))
    os.unlink(world.gone)
    shutil.copyfile(world.kept, world.gone)
    subprocess.run(["cp", "--reflink=always", world.kept, world.gone], check=True)
    size = os.path.getsize(world.gone)
    assert _shared(world) == size
    with open(world.gone, "r+b") as file:
        start = file.read(8192)
        file.seek(0)
        file.write(start)
    assert 0 < size - _shared(world) < size
    own = size - _shared(world)
    result = world.apply("reflink")
    assert (result.state, result.bytes) == ("shared", own)
    with open(world.kept, "rb") as kept, open(world.gone, "rb") as gone:
        assert not own_ranges(kept.fileno(), gone.fileno())
        assert not unshared_bytes(gone.fileno())
    assert world.free(world.apply("delete").id).bytes == 0


def test_parts_of_compressed_files_are_shared_once(disk: Disk) -> None:
    """Of those that differ, each; and then there is nothing to do any more."""
    folder = disk("btrfs")
    subprocess.run(["btrfs", "property", "set", folder, "compression", "zstd"], check=True)
    world = make_world(folder)
    content = bytes(byte & 3 for byte in os.urandom(1 << 20))
    write_safetensors(os.fsdecode(world.kept), {"a.lora_down.weight": ("U8", (1 << 20,), content)})
    content = read(world.kept)
    os.sync()
    subprocess.run(["cp", "--reflink=always", world.kept, world.gone], check=True)
    with open(world.gone, "r+b", buffering=0) as file:
        file.seek(50 << 12)
        file.write(content[50 << 12 : 51 << 12])
        os.fsync(file.fileno())
    assert _ranges(world) == [(50 << 12, 1 << 12)]
    assert world.apply("reflink").bytes == 1 << 12
    assert _ranges(world) == []


def _ranges(world: World) -> list[tuple[int, int]]:
    with open(world.kept, "rb") as kept, open(world.gone, "rb") as gone:
        return own_ranges(kept.fileno(), gone.fileno())


# XFS frees the blocks of a file that is gone in the background, a moment later.
@pytest.mark.parametrize(("kind", "action"), [("xfs", "reflink"), ("btrfs", "reflink"), ("btrfs", "delete")])
def test_blocks_are_free_with_the_last_file_that_has_them(disk: Disk, kind: str, action: str) -> None:
    """What goes and shares its blocks with a third file frees nothing yet."""
    world = make_world(disk(kind))
    third = os.path.join(os.path.dirname(world.gone), b"third.safetensors")
    subprocess.run(["cp", "--reflink=always", world.gone, third], check=True)
    size = os.path.getsize(world.gone)
    order = world.order(action)

    def saved(number: int) -> int:
        return world.free(number).bytes if action == "delete" else world.savings().saved

    assert saved(world.apply(action).id) == 0
    with world.actor() as actor:
        again = msgspec.structs.replace(order, kept=side(world.kept, world.root), gone=side(third, world.root))
        number = act(actor, again).id
    assert saved(number) == size


@pytest.mark.parametrize("kind", SHARING)
@pytest.mark.parametrize("number", range(len(SHARE)))
def test_killed_while_sharing(disk: Disk, kind: str, number: int) -> None:
    """A kill at any step leaves both files as they are, and it can be ordered again."""
    world = make_world(disk(kind))
    before, order = world.look(), world.order("reflink")
    assert dies_at(world, number, lambda actor: act(actor, order)) == SHARE[number]
    with world.actor() as actor:
        actor.repair()
        assert {each.state for each in world.history()} <= {"refused", "shared"}
        act(actor, world.order("reflink"))
    assert world.look() == before


@pytest.mark.parametrize(("kind", "number"), [("xfs", 0), ("xfs", 1), ("xfs", 2), ("btrfs", 0)])
def test_killed_while_taking_blocks_apart(disk: Disk, kind: str, number: int) -> None:
    """A kill at any step leaves bytes and times as they are, and the undo can be done again."""
    world = make_world(disk(kind))
    before, done = world.look(), world.apply("reflink")
    step = dies_at(world, number, lambda actor: take_back(actor, done.id))
    with world.actor() as actor:
        actor.repair()
        assert world.look() == before
        (now,) = world.history()
        if step in ("undoing", "unshared"):
            assert now.state == "shared"
            now = take_back(actor, done.id)
        assert now.state == "undone"
    assert world.look() == before


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_reflink_is_refused_where_blocks_cannot_be_shared(disk: Disk, kind: str) -> None:
    """With a word that names the file and what to order instead; nothing is changed."""
    world = make_world(disk(kind))
    before = world.look()
    with pytest.raises(Refused, match=r"gone\.safetensors: its file system cannot share blocks"):
        world.apply("reflink")
    assert world.look() == before


@pytest.mark.parametrize("kind", SHARING)
def test_blocks_that_differ_are_not_shared(disk: Disk, kind: str) -> None:
    """The file system itself compares: a byte that differs is told, and neither file changes."""
    world = make_world(disk(kind))
    with open(world.gone, "r+b") as file:
        file.seek(-5000, os.SEEK_END)
        file.write(b"\xff\xfe\xfd")
    before = world.look()
    with pytest.raises(Refused, match="not the same as"):
        world.apply("reflink")
    with open(world.kept, "rb") as kept, open(world.gone, "rb") as gone:
        assert reflink.share_range(kept.fileno(), gone.fileno(), 0, os.path.getsize(world.gone)) is None
    assert world.look() == before


def _two_disks(disk: Disk, tmp_path: Path) -> tuple[World, Order]:
    """The kept file on ext4, the other one on XFS; the state folder elsewhere."""
    kept = make_world(disk("ext4"), sidecars=False)
    gone = make_world(disk("xfs"), state=str(tmp_path / "state"))
    os.unlink(kept.gone)
    os.unlink(gone.kept)
    return gone, Order("", "file", side(kept.kept, kept.root), side(gone.gone, gone.root))


@pytest.mark.parametrize(("action", "word"), [("hardlink", "another file system"), ("reflink", "file systems")])
def test_across_file_systems_is_refused(disk: Disk, tmp_path: Path, action: str, word: str) -> None:
    """Hard links and shared blocks across file systems are refused with a word, and nothing is changed."""
    world, order = _two_disks(disk, tmp_path)
    before = world.look()
    with world.actor() as actor, pytest.raises(Refused, match=word):
        act(actor, Order(action, order.level, order.kept, order.gone))
    assert world.look() == before
    assert not world.leftovers()


def test_a_symbolic_link_across_file_systems(disk: Disk, tmp_path: Path) -> None:
    """It is absolute, since the roots are different ones, and can be undone."""
    world, order = _two_disks(disk, tmp_path)
    before = world.look()
    with world.actor() as actor:
        act(actor, Order("symlink", "file", order.kept, order.gone))
        assert os.readlink(world.gone) == order.kept.path
        take_back(actor, 1)
    assert world.look() == before


def test_quarantine_on_another_file_system_lies_in_the_root(disk: Disk, tmp_path: Path) -> None:
    """A rename cannot lead into the state folder, so a hidden folder at the root's top is made, for us alone."""
    world, order = _two_disks(disk, tmp_path)
    before, content = world.look(), read(world.gone)
    with world.actor() as actor:
        act(actor, Order("quarantine", "file", order.kept, order.gone))
        aside = os.path.join(world.root, b".lorad-quarantine")
        assert stat.S_IMODE(os.stat(aside).st_mode) == 0o700
        (path,) = [name for name in world.leftovers() if aside in name]
        assert read(path) == content
        with pytest.raises(Refused, match="lies in quarantine"):
            act(actor, Order("delete", "file", side(path, world.root), side(order.kept.path, order.kept.root)))
        take_back(actor, 1)
    assert world.look() == before
    assert not os.path.exists(aside)


def test_a_mount_below_the_root_cannot_be_emptied_into_its_quarantine(disk: Disk, tmp_path: Path) -> None:
    """A file on another file system than its root and the state folder is refused with the remedy."""
    world, order = _two_disks(disk, tmp_path)
    top = os.path.dirname(os.path.dirname(os.path.dirname(world.root)))
    gone = side(world.gone, top)
    before = world.look()
    with world.actor() as actor, pytest.raises(Refused, match="another file system"):
        act(actor, Order("quarantine", "file", order.kept, gone))
    assert world.look() == before


def test_a_disk_that_is_full_while_undo_copies(disk: Disk, tmp_path: Path) -> None:
    """The undo is refused, its copy is removed, and it can be done when there is room."""
    world = make_world(disk("tmpfs"), state=str(tmp_path / "state"))
    before = world.look()
    result = world.apply("delete")
    world.free(result.id)
    after = world.look()
    filler = os.path.join(os.path.dirname(world.root), b"filler")
    with open(filler, "wb") as file:
        room = os.statvfs(world.root)
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize - 65536)
    with pytest.raises(Refused, match=r"no space left.*; make room"):
        world.undo(result.id)
    assert world.look() == after
    assert [each.state for each in world.history()] == ["freed"]
    os.unlink(filler)
    world.undo(result.id)
    assert world.look() == before
