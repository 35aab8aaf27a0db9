"""Files that share their blocks are known by it, and by nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from lorad.blocks.extents import NOWHERE
from lorad.blocks.room import unpacked
from lorad.dedupe.keeping import Copy
from lorad.dedupe.plan import make_plan
from lorad.dedupe.policy import Policy
from lorad.dedupe.sharing import with_extents
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
    assert world.apply("reflink").state == "done"
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
    assert [list(unpacked(copy.extents)) for copy in looked_at[0]] == [[(0, NOWHERE, size)]] * 2
    assert make_plan(looked_at, Policy("delete"), 10**20).bytes == size


def test_nothing_is_said_where_blocks_cannot_be_shared(disk: Disk) -> None:
    world = make_world(disk("ext4"))
    assert {copy.extents for copy in with_extents([copies(world.kept, world.gone)])[0]} == {b""}


@pytest.mark.parametrize("kind", ["xfs"])
def test_files_that_are_gone_or_others_are_no_trouble(disk: Disk, kind: str) -> None:
    """The catalogue may be a moment behind."""
    world = make_world(disk(kind))
    given = copies(world.kept, world.gone)
    os.sync()
    os.unlink(world.gone)
    assert [bool(copy.extents) for copy in with_extents([given])[0]] == [True, False]
    os.symlink(world.kept, world.gone)
    assert [bool(copy.extents) for copy in with_extents([given])[0]] == [True, False]
    given[0] = given[0]._replace(size=1)
    given[1] = given[1]._replace(size=1)
    assert {copy.extents for copy in with_extents([given])[0]} == {b""}


def test_files_without_blocks_share_none(disk: Disk) -> None:
    """Btrfs keeps small files in their inodes."""
    folder = disk("btrfs")
    for name in "ab":
        with open(f"{folder}/{name}", "wb") as file:
            file.write(b"x" * 100)
            os.fsync(file.fileno())
    plan = make_plan(with_extents([copies(f"{folder}/a", f"{folder}/b")]), Policy("delete"), 10**20)
    assert [step.bytes for step in plan.steps] == [100]
