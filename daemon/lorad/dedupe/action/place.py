"""A file beneath its root, reached one folder after the other and never through a symbolic link, and its names.

What was reached is worked on by the folder's descriptor: whatever is renamed or swapped on the way to it
afterwards, no call lands elsewhere. `in_place` tells whether the path still leads there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import msgspec

from lorad.dedupe.action.order import Refused

_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What is said of a name that leads nowhere, or through a link.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

#: Of a name, on all file systems that models lie on.
NAME_BYTES = 255
_libc = ctypes.CDLL(None, use_errno=True)

#: linux/fs.h.
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
#: SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER. Where a file system has none of it, fsync does all.
_WRITE_AND_WAIT = 7
#: What a file system says that does not know the flags of renameat2(2).
_NO_FLAGS = (errno.EINVAL, errno.ENOSYS)


class Folder(msgspec.Struct, frozen=True):
    """Which folder it is, of all that may come to stand under its name. `ino` is 0 where that was not noted.

    `dev` may be another one after the system was started again; `fsid` (statvfs(3)) stays on most file systems,
    and is 0 on those that have none.
    """

    dev: int = 0
    ino: int = 0
    fsid: int = 0

    @classmethod
    def of(cls, fd: int) -> Folder:
        status = os.fstat(fd)
        return cls(status.st_dev, status.st_ino, os.fstatvfs(fd).f_fsid)

    def may_be(self, other: Folder) -> bool:
        """Whether nothing speaks against its being that one."""
        return not self.ino or not other.ino or self.ino == other.ino

    def is_surely(self, other: Folder) -> bool:
        """Whether it is that one, also after the system was started again."""
        same_disk = self.dev == other.dev or (self.fsid == other.fsid != 0)
        return self.ino == other.ino != 0 and same_disk


@dataclass(frozen=True)
class Reached:
    """A name in an open folder: `folder` is its descriptor, readable, so that it can be synced."""

    root: bytes
    path: bytes
    folder: int
    name: bytes

    def status(self, name: bytes | None = None) -> os.stat_result | None:
        """What stands at the name now (or at another one in this folder), not followed; None for nothing."""
        try:
            return os.stat(self.name if name is None else name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def in_place(self) -> bool:
        """Whether the path from the root still leads to this folder, through folders alone."""
        try:
            with closing_fd(_walk(self.root, names_below(self.root, self.path)[:-1])) as fd:
                return os.path.samestat(os.fstat(fd), os.fstat(self.folder))
        except (OSError, Refused):
            return False


@contextmanager
def closing_fd(fd: int) -> Iterator[int]:
    """Close a descriptor at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def reach(root: bytes, path: bytes) -> Iterator[Reached]:
    """The folder that `path` lies in, and its name there. The name itself need not exist.

    Raises Refused when the path does not lie beneath the root, when a part of it is missing, is no folder or is a
    symbolic link, or when it may not be looked into.
    """
    parts = names_below(root, path)
    try:
        fd = _walk(root, parts[:-1])
    except OSError as error:
        if error.errno in _NOWHERE:
            raise Refused.about(path, "its folder is gone, or is a symbolic link now; bring it back") from error
        reason = os.strerror(error.errno or 0).lower()
        raise Refused.about(path, f"its folder cannot be opened: {reason}; give lorad's user the right") from error
    with closing_fd(fd):
        yield Reached(root, path, fd, parts[-1])


def make_way(root: bytes, path: bytes) -> None:
    """Make the folders below the root that `path` lies in, where they are missing, each like the one around it.

    Nothing is made through a symbolic link, nor where the root is not there. Raises OSError.
    """
    try:
        fd = _walk(root, ())
    except OSError:
        return
    for part in names_below(root, path)[:-1]:
        try:
            below = os.open(part, _FOLDER, dir_fd=fd)
        except FileNotFoundError:
            like = os.fstat(fd)
            os.mkdir(part, 0o700, dir_fd=fd)
            below = os.open(part, _FOLDER, dir_fd=fd)
            with suppress(PermissionError):
                os.fchown(below, like.st_uid, like.st_gid)
            os.fchmod(below, stat.S_IMODE(like.st_mode))
            os.fsync(fd)
        except OSError:
            break
        finally:
            os.close(fd)
        fd = below
    else:
        os.close(fd)


def open_file(reached: Reached) -> int:
    """A descriptor for reading, of a file that is no link. Its atime stays as it is where the owner asks.

    Raises Refused where there is none.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            return os.open(reached.name, flags | os.O_NOATIME, dir_fd=reached.folder)
        except PermissionError:
            return os.open(reached.name, flags, dir_fd=reached.folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused.about(
                reached.path, "it is a symbolic link now; give the file that it points to"
            ) from error
        if error.errno in _NOWHERE:
            raise Refused.about(reached.path, "it is not there any more; scan again") from error
        reason = os.strerror(error.errno or 0).lower()
        raise Refused.about(reached.path, f"cannot be opened: {reason}; give lorad's user the right") from error


def names_below(root: bytes, path: bytes) -> list[bytes]:
    """The names from the root down to the file. Raises Refused where it does not lie beneath the root."""
    prefix = root.rstrip(b"/") + b"/"
    parts = path[len(prefix) :].split(b"/")
    if not path.startswith(prefix) or not root.startswith(b"/") or not {b"", b".", b".."}.isdisjoint(parts):
        raise Refused.about(path, f"it does not lie beneath {os.fsdecode(root)}; give the root that it lies in")
    return parts


def _walk(root: bytes, parts: Sequence[bytes]) -> int:
    """A readable descriptor of the folder `parts` beneath the root. The root's own path may hold links."""
    way = [part for part in os.path.realpath(root).split(b"/") if part] + list(parts)
    fd = os.open(b"/", _WAY if way else _FOLDER)
    for depth, part in enumerate(way, start=1):
        try:
            below = os.open(part, _WAY if depth < len(way) else _FOLDER, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def rename_new(folder: int, name: bytes, to_folder: int, to_name: bytes) -> None:
    """Rename, unless the new name is taken (FileExistsError)."""
    try:
        _renameat2(folder, name, to_folder, to_name, _RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in _NO_FLAGS:
            raise
        # NFS, older FUSE: a link is refused as well where the name is taken. Killed in between, it has both names.
        try:
            os.link(name, to_name, src_dir_fd=folder, dst_dir_fd=to_folder, follow_symlinks=False)
        except PermissionError:
            # A folder, or a file system without links.
            raise error from None
        os.unlink(name, dir_fd=folder)


def to_free_name(reached: Reached, folder: int, name: bytes) -> bytes:
    """Give a file the first free name like that of `reached`. Raises Refused where there is none, and OSError."""
    for other in free_names(reached.name):
        with suppress(FileExistsError):
            rename_new(folder, name, reached.folder, other)
            return other
    raise Refused.about(reached.path, "all names like it are taken; move some away, and try again")


def free_names(name: bytes) -> Iterator[bytes]:
    """Names for a file that is given back where its own is taken."""
    stem, ending = os.path.splitext(name)
    for number in range(1, 1000):
        tail = b" (given back)" + b" (%d)" % number * (number > 1) + ending
        yield cut(stem, NAME_BYTES - len(tail)) + tail


def cut(name: bytes, room: int) -> bytes:
    """As much of a name as fits into so many bytes, cut between two characters."""
    if len(name) <= room:
        return name
    return name[:room].decode("utf-8", "ignore").encode() or name[:room]


def exchange(folder: int, name: bytes, other: bytes) -> None:
    """Let two names in one folder change places, at once.

    Raises OSError with EINVAL where the file system cannot (NFS, many FUSE, FAT).
    """
    _renameat2(folder, name, folder, other, _RENAME_EXCHANGE)


def _renameat2(folder: int, name: bytes, to_folder: int, to_name: bytes, flags: int) -> None:
    call = getattr(_libc, "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(folder, name, to_folder, to_name, ctypes.c_uint(flags)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def sync(folder: str) -> None:
    """Make the names in a folder durable. Raises OSError."""
    with closing_fd(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
        os.fsync(fd)


def sync_all(files: Iterable[int]) -> None:
    """Make open files and folders durable, each once. Raises OSError.

    Their data is written first, for all of them: then one commit of the file system's journal serves them all.
    """
    each: dict[tuple[int, int], int] = {}
    for fd in files:
        status = os.fstat(fd)
        each.setdefault((status.st_dev, status.st_ino), fd)
    if len(each) > 1:
        for fd in each.values():
            _libc.sync_file_range(fd, ctypes.c_longlong(0), ctypes.c_longlong(0), _WRITE_AND_WAIT)
    for fd in each.values():
        os.fsync(fd)
