"""What is mounted where, and which mount a name lies on, from `/proc/self/mountinfo` (proc(5)).

The folders themselves are never asked: a server that does not answer must not hold up the question whether it is
one. A device number does not say it: bind mounts of one file system share it, and nothing can be linked or moved
from one of them to the other; a union mount and its branches differ in it, and are one storage.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import stat
import struct
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from lorad.watch.statx import LOCKED, Status

#: File systems that other machines, or a program, change without this kernel taking notice. `fuseblk` is not
#: among them: there a driver for a local disk (NTFS, exFAT) serves this machine alone.
REMOTE = frozenset(
    b"nfs nfs4 cifs smb smb2 smb3 smbfs afs coda ncpfs 9p virtiofs ceph glusterfs lustre beegfs gpfs gfs2 "
    b"ocfs2 orangefs pvfs2 panfs wekafs vboxsf vmhgfs prl_fs drvfs fuse".split()
)

#: File systems that lie in memory: what is in them is lost with the power.
VOLATILE = frozenset({b"tmpfs", b"ramfs", b"devtmpfs"})
#: Overlays that may lie on each other; the kernel allows fewer.
_LAYERS = 8

_ESCAPED = re.compile(rb"\\([0-7]{3})")
_UPPER = re.compile(rb"(?:^|,)upperdir=((?:[^,\\]|\\.)*)", re.DOTALL)
_MOUNTINFO = "/proc/self/mountinfo"
#: What to poll a mount table for.
NEWS = select.POLLPRI | select.POLLERR


class Mount(NamedTuple):
    """A line of mountinfo. `device` is as in `st_dev`, but on btrfs, which has one for each subvolume.

    `root` is the folder of the file system that shows at `point`: of two mounts of one device it may differ.
    `upper`: the folder that an overlay writes to, as it was called when that was mounted. `number`: as statx(2)
    has it; `parent`: of the mount that `point` lies on. `options`: those of the file system.
    """

    point: bytes
    kind: bytes
    device: int
    root: bytes = b"/"
    read_only: bool = False
    upper: bytes = b""
    number: int = 0
    parent: int = 0
    options: bytes = b""


def parse(mountinfo: bytes) -> list[Mount]:
    """The mounts, in the kernel's order: of two at one point, the later one is on top."""
    mounts = []
    for line in mountinfo.split(b"\n"):
        fields = line.split(b" ")
        try:
            kind, _, options = fields[fields.index(b"-", 6) + 1 :][:3]
            major, minor = fields[2].split(b":")
            device = os.makedev(int(major), int(minor))
            # Of the mount, and of the file system, which may be mounted elsewhere as well.
            read_only = b"ro" in (*fields[5].split(b","), *options.split(b","))
            upper = _upper(options) if kind == b"overlay" else b""
            root, point = _unescaped(fields[3]), _unescaped(fields[4])
            number, parent = int(fields[0]), int(fields[1])
            mounts.append(Mount(point, kind, device, root, read_only, upper, number, parent, options))
        except (ValueError, IndexError):
            # A line of a form that is not known yet says nothing about the other mounts.
            continue
    return mounts


def _unescaped(field: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 8) & 0xFF,)), field)


def _upper(options: bytes) -> bytes:
    """A comma in a folder's name stands behind a backslash, which mountinfo escapes in turn."""
    found = _UPPER.search(_unescaped(options))
    return re.sub(rb"\\(.)", rb"\1", found[1], flags=re.DOTALL) if found else b""


def find(mounts: Sequence[Mount], path: bytes) -> Mount | None:
    """The mount that an absolute path without links lies on; None where mountinfo does not say."""
    best: Mount | None = None
    for mount in mounts:
        if is_below(path, mount.point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def inside(mounts: Sequence[Mount], folder: bytes) -> dict[bytes, Mount]:
    """What is mounted below a folder, by mount point; where several are, the one on top."""
    return {mount.point: mount for mount in mounts if mount.point != folder and is_below(mount.point, folder)}


def is_remote(mount: Mount | None) -> bool:
    """Whether a mount's files can change without an event on this machine."""
    return mount is not None and (mount.kind in REMOTE or mount.kind.startswith(b"fuse."))


def may_hang(mount: Mount) -> bool:
    """Whether a mount's files are served by another machine or a program, which may not answer."""
    return is_remote(mount) or mount.kind.startswith(b"fuse") or mount.kind == b"autofs"


def why_polled(mount: Mount | None) -> str:
    """The reason, in words, why a mount has to be looked through on a timer; empty where it has not."""
    if mount is None or not is_remote(mount):
        return ""
    return f"it is on {os.fsdecode(mount.kind)}, which does not tell of changes made elsewhere"


def is_volatile(mounts: Sequence[Mount], mount: Mount | None) -> bool:
    """Whether what is written to a mount is lost with the power, as it or the upper layer of it lies in memory."""
    for _ in range(_LAYERS):
        if mount is None or not mount.upper:
            break
        mount = find(mounts, mount.upper)
    return mount is not None and mount.kind in VOLATILE


def read_mounts() -> list[Mount]:
    """The mounts as they are now, for whoever asks once."""
    with open(_MOUNTINFO, "rb") as file:
        return parse(file.read())


def is_below(path: bytes, folder: bytes) -> bool:
    """Whether a path is a folder or something in it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


class MountTable:
    """The mounts now, parsed again only when the kernel says that something was mounted or unmounted."""

    def __init__(self) -> None:
        self._file = open(_MOUNTINFO, "rb", buffering=0)  # noqa: SIM115 - it stays open to be polled
        self._poll = select.poll()
        self._poll.register(self._file, NEWS)
        self.mounts = self._read()
        #: Whether somebody else's poll has been told of a change, of which the kernel tells once.
        self.stale = False

    def fileno(self) -> int:
        return self._file.fileno()

    def changed(self) -> bool:
        """Whether the mounts have changed since the last time; `mounts` is up to date afterwards."""
        if not self._poll.poll(0) and not self.stale:
            return False
        self.stale = False
        before, self.mounts = self.mounts, self._read()
        return [mount[:6] for mount in before] != [mount[:6] for mount in self.mounts]

    def close(self) -> None:
        self._file.close()

    def _read(self) -> list[Mount]:
        self._file.seek(0)
        return parse(self._file.readall())


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
