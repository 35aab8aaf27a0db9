"""All that a file has besides names and bytes: mode, owner, times and extended attributes (POSIX ACLs among them).

Not among them: ctime and birth time, which nobody can set, and the inode flags of chattr(1).
"""

from __future__ import annotations

import os
import stat
from contextlib import nullcontext, suppress

import msgspec

from loracore.causes import doing
from loracore.errors import FileError
from loracore.identity import bounded

#: These decide who may read; a file's other names cannot have others.
_ACCESS = (b"system.posix_acl_access", b"security.")


class Attributes(msgspec.Struct, frozen=True):
    """`mode` without the file type; `xattrs` sorted by name."""

    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def of(cls, fd: int, status: os.stat_result) -> Attributes:
        """Those of an open file; `status` tells how it was before it was read.

        Raises FileError for times that the journal cannot keep.
        """
        times = status.st_atime_ns, status.st_mtime_ns
        if times != tuple(map(bounded, times)):
            raise FileError("its times lie before 1678 or beyond 2262, which could not be given back; touch it")
        return cls(
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_atime_ns,
            status.st_mtime_ns,
            _xattrs(fd),
        )

    def same_access(self, other: Attributes) -> bool:
        """Whether the same people may do the same: owner, group, mode, ACL and security labels."""
        return (self.uid, self.gid, self.mode, self._access()) == (
            other.uid,
            other.gid,
            other.mode,
            other._access(),
        )

    def _access(self) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value in self.xattrs if name.startswith(_ACCESS)]

    def give(self, fd: int) -> None:
        """Give them all to an open file of ours; the times last. Raises OSError where one cannot be given."""
        now = os.fstat(fd)
        if (now.st_uid, now.st_gid) != (self.uid, self.gid):
            with doing(
                f"give a copy of it the owner {self.uid}:{self.gid} (chown)",
                forbidden="run lorad as a member of that group, or with CAP_CHOWN",
            ):
                os.fchown(fd, self.uid, self.gid)
        present = dict(_xattrs(fd))
        wanted = dict(self.xattrs)
        for name in present.keys() - wanted.keys():
            # A folder's default ACL, or a label that the system gives to every file and takes from none.
            with suppress(OSError) if name.startswith(b"security.") else nullcontext():
                os.removexattr(fd, name)
        for name, value in self.xattrs:
            if present.get(name) != value:
                with doing(
                    f"give a copy of it the attribute {os.fsdecode(name)} (setxattr)",
                    forbidden="run lorad with the right to set it, or remove it from the file",
                ):
                    os.setxattr(fd, name, value)
        with doing(f"give a copy of it the mode {self.mode:04o} (chmod)"):
            os.fchmod(fd, self.mode)
        os.utime(fd, ns=(self.atime_ns, self.mtime_ns))


def rehearse(attributes: Attributes, folder: int, name: bytes) -> None:
    """Make a file in the folder, give it these attributes and remove it: whether undo could. Raises OSError.

    One of this name is replaced: it was left where lorad was killed.
    """
    fd = make_file(folder, name)
    try:
        attributes.give(fd)
    finally:
        os.close(fd)
        os.unlink(name, dir_fd=folder)


def make_file(folder: int, name: bytes) -> int:
    """A descriptor of a new file, in place of one of this name. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with doing("make a file in its folder (open)"):
        return os.open(name, flags, 0o600, dir_fd=folder)


def _xattrs(fd: int) -> tuple[tuple[bytes, bytes], ...]:
    try:
        names = sorted(map(os.fsencode, os.listxattr(fd)))
    except OSError:
        # The file system has none.
        return ()
    return tuple((name, os.getxattr(fd, name)) for name in names)
