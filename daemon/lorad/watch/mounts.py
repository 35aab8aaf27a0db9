"""What is mounted where, from `/proc/self/mountinfo` (proc(5)).

It is never the folders themselves that are asked: a server that does not answer must not hold up the question
whether it is one.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Sequence
from typing import NamedTuple

#: File systems that other machines, or a program, change without this kernel taking notice. `fuseblk` is not
#: among them: there a driver for a local disk (NTFS, exFAT) serves this machine alone.
REMOTE = frozenset(
    b"nfs nfs4 cifs smb smb2 smb3 smbfs afs coda ncpfs 9p virtiofs ceph glusterfs lustre beegfs gpfs gfs2 "
    b"ocfs2 orangefs pvfs2 panfs wekafs vboxsf vmhgfs prl_fs drvfs fuse".split()
)

#: File systems that lie in memory: what is in them is lost with the power.
VOLATILE = frozenset({b"tmpfs", b"ramfs", b"devtmpfs"})

_ESCAPED = re.compile(rb"\\([0-7]{3})")
_MOUNTINFO = "/proc/self/mountinfo"
#: What to poll a mount table for.
NEWS = select.POLLPRI | select.POLLERR


class Mount(NamedTuple):
    """A line of mountinfo. `device` is as in `st_dev`, but on btrfs, which has one for each subvolume."""

    point: bytes
    kind: bytes
    device: int


def parse(mountinfo: bytes) -> list[Mount]:
    """The mounts, in the kernel's order: of two at one point, the later one is on top."""
    mounts = []
    for line in mountinfo.split(b"\n"):
        fields = line.split(b" ")
        try:
            kind = fields[fields.index(b"-", 6) + 1]
            major, minor = fields[2].split(b":")
            mounts.append(Mount(_unescaped(fields[4]), kind, os.makedev(int(major), int(minor))))
        except (ValueError, IndexError):
            # A line of a form that is not known yet says nothing about the other mounts.
            continue
    return mounts


def _unescaped(field: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 8) & 0xFF,)), field)


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


def is_mounted(mounts: Sequence[Mount], device: int) -> bool:
    """Whether a device (as in `st_dev`) is mounted anywhere."""
    return any(mount.device == device for mount in mounts)


def volatile_devices(mounts: Sequence[Mount]) -> frozenset[int]:
    """The devices (as in `st_dev`) of file systems that lie in memory."""
    return frozenset(mount.device for mount in mounts if mount.kind in VOLATILE)


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
        return before != self.mounts

    def close(self) -> None:
        self._file.close()

    def _read(self) -> list[Mount]:
        self._file.seek(0)
        return parse(self._file.readall())
