"""A file in memory is never kept in favour of one on a disk: a restart would lose the only copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest
from lorad.dedupe.orders import Order, Refused

from lorad.dedupe.keeping import Copy
from lorad.dedupe.volatile import with_volatile
from tests.daemon.dedupe.world import make_world, read, side

Disk = Callable[[str], str]


@pytest.mark.parametrize("action", ["delete", "symlink", "quarantine"])
def test_an_order_that_would_keep_the_one_in_memory_is_refused(disk: Disk, action: str) -> None:
    """The other way round it is carried out."""
    world = make_world(disk("ext4"))
    root = os.fsencode(disk("tmpfs"))
    copy = os.path.join(root, b"copy.safetensors")
    shutil.copyfile(world.kept, copy)
    os.chown(copy, 1234, 2345)
    os.setxattr(copy, "system.posix_acl_access", os.getxattr(world.gone, "system.posix_acl_access"))
    content = read(world.gone)
    one, other = side(copy, root), side(world.gone, world.root)
    with world.actor() as actor:
        with pytest.raises(Refused, match="lies in memory"):
            actor.apply(Order(action, "file", one, other))
        assert read(world.gone) == content
        assert actor.apply(Order(action, "file", other, one)).state == "done"


def test_which_files_lie_in_memory_is_known(disk: Disk) -> None:
    """By the mount table, for each device."""
    found = []
    for kind in ("tmpfs", "ext4"):
        folder = disk(kind)
        status = os.stat(folder)
        found.append(Copy((os.fsencode(folder),), status.st_dev, status.st_ino, 1, 0, 0, b"1"))
    assert [copy.volatile for copy in with_volatile([found])[0]] == [True, False]
