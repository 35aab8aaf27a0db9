"""A file in memory, or on a read-only file system, is not kept for one on a disk that can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

import pytest
from lorad.dedupe.keepable import why_not_kept
from lorad.dedupe.orders import Order, Refused

from lorad.library.keepers import Rule, Rules
from tests.daemon.dedupe.world import make_world, read, side
from tests.daemon.watch.conftest import mounted

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


def test_whether_a_file_may_be_kept_is_asked_of_the_disks(disk: Disk) -> None:
    """SPEC 5, may keep: before something goes for good it is asked again."""
    folder, memory = os.fsencode(disk("ext4")), os.fsencode(disk("tmpfs"))
    frozen = os.path.join(folder, b"frozen")
    os.mkdir(frozen)

    def why_not(kept: bytes, gone: bytes, *rules: Rule) -> str:
        return why_not_kept(kept + b"/a", os.stat(kept).st_dev, gone + b"/b", Rules(keep=rules))

    assert why_not(folder, folder) == why_not(memory, memory) == why_not(folder, memory) == ""
    assert "lies in memory" in why_not(memory, folder)
    with mounted(frozen):
        os.mkdir(os.path.join(frozen, b"in"))
        subprocess.run(["mount", "-o", "remount,ro", frozen], check=True)
        assert "read-only file system" in why_not(frozen, memory)
        assert why_not(frozen, memory, Rule("path-prefix", folder)) != ""
        assert why_not(frozen, memory, Rule("path-prefix", frozen)) == ""
