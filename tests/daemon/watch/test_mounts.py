"""Which file system a folder is on, from the text of mountinfo."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorad.watch.mounts import Mount, MountTable, find, inside, is_below, is_remote, parse
from tests.daemon.watch.conftest import mounted

TEXT = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
36 27 0:40 / /srv/models rw,relatime shared:9 master:2 - nfs4 nas:/models rw,vers=4.2
37 36 8:17 / /srv/models/fast\040disk rw - xfs /dev/sdb1 rw
38 27 0:44 / /home/a/remote rw,nosuid - fuse.sshfs a@b:/ rw
39 27 8:33 / /mnt/ntfs rw - fuseblk /dev/sdc1 rw
40 37 0:50 / /srv/models/fast\040disk rw - tmpfs none rw
this line is of another kind
"""


def test_a_folder_lies_on_the_mount_furthest_down_and_of_two_at_one_point_on_the_later() -> None:
    """Spaces in mount points are escaped; optional fields come in any number."""
    mounts = parse(TEXT)
    kinds = {
        b"/": b"ext4",
        b"/srv": b"ext4",
        b"/srv/modelsextra": b"ext4",
        b"/srv/models": b"nfs4",
        b"/srv/models/a/b": b"nfs4",
        b"/srv/models/fast disk/a": b"tmpfs",
        b"/home/a/remote": b"fuse.sshfs",
    }
    for path, kind in kinds.items():
        mount = find(mounts, path)
        assert mount is not None, path
        assert mount.kind == kind, path
    assert find([], b"/srv") is None


def test_file_systems_that_other_machines_change_are_told_from_those_on_a_local_disk() -> None:
    """Fuseblk is a driver for a local disk, and all other FUSE file systems may be anything."""
    remote = {mount.point for mount in parse(TEXT) if is_remote(mount)}
    assert remote == {b"/srv/models", b"/home/a/remote"}
    for kind in (b"cifs", b"smb3", b"9p", b"virtiofs", b"ceph", b"fuse.rclone", b"fuse"):
        assert is_remote(Mount(b"/", kind, 0)), kind
    assert not is_remote(None)


def test_what_is_mounted_inside_a_folder() -> None:
    mounts = parse(TEXT)
    assert {point: mount.kind for point, mount in inside(mounts, b"/srv/models").items()} == {
        b"/srv/models/fast disk": b"tmpfs"
    }


@given(st.binary(min_size=1).map(lambda name: b"/" + name.replace(b"\0", b"").replace(b"/", b"_")))
def test_a_mount_point_may_have_any_name(point: bytes) -> None:
    """The kernel escapes blanks, line ends and backslashes, and nothing else."""
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes((byte,)) for byte in point)
    # Other line ends that Python knows are no line ends to the kernel.
    (mount,) = parse(b"36 27 0:40 / " + escaped + b" rw - ext4 /dev/vda rw\n")
    assert mount.point == point


def test_the_real_table_is_read_and_says_where_this_process_stands() -> None:
    table = MountTable()
    mount = find(table.mounts, os.fsencode(os.path.realpath(os.curdir)))
    assert mount is not None
    assert not table.changed()
    table.close()


def test_a_new_mount_is_noticed_without_reading_the_table_over_and_over(root: bytes) -> None:
    table = MountTable()
    with mounted(root):
        assert table.changed()
        mount = find(table.mounts, root)
        assert mount is not None
        assert (mount.point, mount.device) == (root, os.stat(root).st_dev)
        assert not table.changed()
    assert table.changed()
    table.close()


@pytest.mark.parametrize(("path", "below"), [(b"/a", True), (b"/a/b", True), (b"/ab", False), (b"/", False)])
def test_a_path_is_below_a_folder_by_whole_names(path: bytes, below: bool) -> None:
    assert is_below(path, b"/a") is below
    assert is_below(path, b"/")
