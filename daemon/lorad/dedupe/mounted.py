"""Which mount a name lies on, and which names something is mounted on.

A device number says neither: bind mounts of one file system share it, and nothing can be linked or moved from one
of them to the other; a union mount and its branches differ in it, and are one storage.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections import defaultdict
from contextlib import suppress

from lorad.dedupe.statx import LOCKED, Status
from lorad.watch.mounts import Mount, MountTable, find, is_below

#: File systems on local disks, or in memory, that show their own files alone, and under their own inodes. All
#: others may show what another one shows: overlay and union mounts, FUSE, the network, and what is not known yet.
PLAIN = frozenset(
    b"ext2 ext3 ext4 xfs btrfs bcachefs f2fs zfs jfs reiserfs nilfs2 tmpfs ramfs vfat msdos exfat ntfs3 hfsplus "
    b"hfs udf iso9660 squashfs erofs".split()
)
#: linux/fs.h: FS_IOC_GETFLAGS, and FS_IOC_FSGETXATTR with struct fsxattr and FS_XFLAG_PROJINHERIT.
_GET_FLAGS, _GET_PROJECT, _INHERITS = 0x80086601, 0x801C581F, 0x200
_PROJECT = struct.Struct("=IIII12x")
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Mounted:
    """The mounts as they are, for one thread. `renew` before each use; it may be closed in between."""

    #: How many times anything was mounted, unmounted or mounted otherwise.
    generation = 0

    def __init__(self) -> None:
        self._table: MountTable | None = None
        self._mounts: list[Mount] = []
        self._by_number: dict[int, Mount] = {}
        self._covered: dict[tuple[int, bytes], set[bytes]] = {}

    def close(self) -> None:
        if self._table is not None:
            self._table.close()
            self._table = None

    def renew(self) -> int:
        """The generation of the mounts, which are up to date afterwards."""
        if self._table is None:
            self._table = MountTable()
        self._table.changed()
        if self._table.mounts is self._mounts:
            return self.generation
        self.generation += 1
        self._mounts = self._table.mounts
        self._by_number = {mount.number: mount for mount in self._mounts}
        self._covered = defaultdict(set)
        for mount in self._mounts:
            below = self._by_number.get(mount.parent)
            folder, name = os.path.split(mount.point)
            if below is not None and name and is_below(folder, below.point):
                self._covered[below.device, inner(below, folder)].add(name)
        return self.generation

    def mount(self, path: bytes, status: Status) -> Mount | None:
        """What a name lies on; None where mountinfo does not say."""
        return self._by_number.get(status.mount) or find(self._mounts, os.path.realpath(path))

    def covered(self, folder: bytes, mount: Mount | None) -> frozenset[bytes]:
        """The names in a folder, by whichever of its mounts it is seen, that cannot change: EBUSY."""
        if mount is None or not is_below(folder, mount.point):
            return frozenset()
        return frozenset(self._covered.get((mount.device, inner(mount, folder)), ()))

    def within(self, folder: bytes) -> bool:
        """Whether something is mounted below a folder."""
        return any(mount.point != folder and is_below(mount.point, folder) for mount in self._mounts)


def is_plain(mount: Mount | None) -> bool:
    """Whether a mount shows no files that another file system shows too."""
    return mount is not None and mount.kind in PLAIN


def inner(mount: Mount, path: bytes) -> bytes:
    """A path on a mount as it is in its file system, whatever part of that is mounted where."""
    return mount.root.rstrip(b"/") + path[len(mount.point.rstrip(b"/")) :] or b"/"


def is_locked(path: bytes, status: Status) -> bool:
    """Whether a file or folder is immutable or append-only, also where only an ioctl says so (mergerfs)."""
    if status.tells or not (stat.S_ISREG(status.mode) or stat.S_ISDIR(status.mode)):
        return bool(status.flags)
    with suppress(OSError):
        flags = _asked(path, _GET_FLAGS, struct.calcsize("l"))
        return bool(int.from_bytes(flags[:4], "little") & LOCKED)
    return False


def project(path: bytes) -> tuple[int, bool]:
    """The project that a file or folder is counted to by quotas (xfs_quota(8)), and whether it passes that on.

    No name leads from one project into a folder that passes on another: EXDEV.
    """
    with suppress(OSError):
        flags, _, _, number = _PROJECT.unpack(_asked(path, _GET_PROJECT, _PROJECT.size))
        return number, bool(flags & _INHERITS)
    return 0, False


def _asked(path: bytes, request: int, size: int) -> bytes:
    fd = os.open(path, _LOOK)
    try:
        return fcntl.ioctl(fd, request, bytes(size))
    finally:
        os.close(fd)
