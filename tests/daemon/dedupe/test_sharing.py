"""Files that share their blocks are known by it, and by nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import save

from lorad.blocks.usage import NOWHERE, unpacked
from lorad.dedupe.plan import make_plan
from lorad.dedupe.planner import with_extents
from lorad.dedupe.policy import Policy
from lorad.library.keepers import Copy
from tests.daemon.dedupe.world import make_world

Disk = Callable[[str], str]


def copies(*paths: str | bytes) -> list[Copy]:
    """What a catalogue says of files of equal bytes."""
    found = []
    for path in map(os.fsencode, paths):
        status = os.stat(path)
        times = status.st_mtime_ns, status.st_ctime_ns
        found.append(Copy((path,), status.st_dev, status.st_ino, status.st_size, *times, b"1"))
    return found


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_shared_files_are_left_alone(disk: Disk, kind: str) -> None:
    """A plan has a step for a copy, and none once it shares its blocks."""
    world = make_world(disk(kind))
    given = copies(world.kept, world.gone)
    os.sync()
    before, now = with_extents([given]), 10**20
    assert all(copy.extents for copy in before[0])
    assert len(make_plan(before, Policy("delete"), now).steps) == 1
    assert world.apply("reflink").state == "shared"
    after = make_plan(with_extents([copies(world.kept, world.gone)]), Policy("delete"), now)
    assert (after.steps, [row.reason for row in after.skipped]) == ([], ["shares its blocks already"])


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_plan_writes_nothing_to_the_disk(disk: Disk, kind: str) -> None:
    """Files that are not on the disk yet share nothing; to write them first would hold the plan up."""
    folder, size = disk(kind), 1 << 20
    for name in "ab":
        with open(f"{folder}/{name}", "wb") as file:
            file.write(b"x" * size)
    looked_at = with_extents([copies(f"{folder}/a", f"{folder}/b")])
    assert [list(unpacked(copy.extents or b"")) for copy in looked_at[0]] == [[(0, size, NOWHERE)]] * 2
    assert make_plan(looked_at, Policy("delete"), 10**20).bytes == size


def test_nothing_is_said_where_blocks_cannot_be_shared(disk: Disk) -> None:
    world = make_world(disk("ext4"))
    assert {copy.extents for copy in with_extents([copies(world.kept, world.gone)])[0]} == {None}


@pytest.mark.parametrize("kind", ["xfs"])
def test_files_that_are_gone_or_others_are_no_trouble(disk: Disk, kind: str) -> None:
    """The catalogue may be a moment behind."""
    world = make_world(disk(kind))
    given = copies(world.kept, world.gone)
    os.sync()
    third = f"{os.fsdecode(world.gone)}.third"
    shutil.copy(world.kept, third)
    given += copies(third)
    for change in (partial(os.unlink, world.gone), partial(os.symlink, world.kept, world.gone)):
        change()
        assert [copy.extents is None for copy in with_extents([given])[0]] == [False, True, False]
    assert {copy.extents for copy in with_extents([[copy._replace(size=1) for copy in given]])[0]} == {None}


def test_files_in_many_pieces_are_not_planned_again(disk: Disk) -> None:
    """Once they share all, however much of them is kept in mind."""
    world = make_world(disk("xfs"))
    content = save({"lora_unet_mid_block.lora_up.weight": np.zeros((768, 2048), np.float32)})
    for path in (world.kept, world.gone):
        with open(path, "r+b", buffering=0) as file:
            file.truncate(0)
            file.write(content)
            os.fsync(file.fileno())
        subprocess.run(["cp", "--reflink=always", path, f"{os.fsdecode(path)}.old"], check=True)
        with open(path, "r+b", buffering=0) as file:
            for block in range(0, len(content) >> 12, 2):
                file.seek(block << 12)
                file.write(content[block << 12 : (block + 1) << 12])
            os.fsync(file.fileno())
    given = [copies(world.kept, world.gone)]
    assert make_plan(with_extents(given), Policy("reflink"), 10**20).bytes == len(content)
    assert world.apply("reflink").state == "shared"
    assert make_plan(with_extents(given), Policy("reflink"), 10**20).steps == []
    assert world.apply("reflink").state == "nothing"


def test_files_share_across_subvolumes(disk: Disk) -> None:
    """Each of Btrfs's subvolumes has a device number of its own, and they are one file system."""
    folder = disk("btrfs")
    subprocess.run(["btrfs", "-q", "subvolume", "create", f"{folder}/inner"], check=True)
    with open(f"{folder}/a", "wb") as file:
        file.write(os.urandom(1 << 20))
    os.sync()
    subprocess.run(["cp", "--reflink=always", f"{folder}/a", f"{folder}/inner/b"], check=True)
    plan = make_plan(with_extents([copies(f"{folder}/a", f"{folder}/inner/b")]), Policy("delete"), 10**20)
    assert (plan.steps, [row.reason for row in plan.skipped]) == ([], ["shares its blocks already"])


def test_files_without_blocks_share_none(disk: Disk) -> None:
    """Btrfs keeps small files in their inodes."""
    folder = disk("btrfs")
    for name in "ab":
        with open(f"{folder}/{name}", "wb") as file:
            file.write(b"x" * 100)
            os.fsync(file.fileno())
    plan = make_plan(with_extents([copies(f"{folder}/a", f"{folder}/b")]), Policy("delete"), 10**20)
    assert [step.bytes for step in plan.steps] == [100]
