"""A file in the making: it has no name until it is whole.

It is opened without a name (open(2), O_TMPFILE), so that a process that is killed leaves nothing behind, and is
linked into its folder when its bytes are on the disk. Where a file system knows no such files (NFS, many FUSE), it
has a hidden temporary name instead, which a killed process would leave.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from types import TracebackType

from loracore.errors import FileError, UsageError

_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
_REMEDIES = {
    errno.ENOSPC: "make room, or give another -o",
    errno.EDQUOT: "make room, or give another -o",
    errno.ENOENT: "make that folder first, or give another -o",
    errno.EACCES: "give another -o, or take --local if only lorad's user may not write there",
    errno.EROFS: "give another -o, or take --local if only lorad may not write there",
}


def refuse_existing(path: bytes, *, force: bool, inputs: tuple[bytes, ...] = ()) -> None:
    """Raises UsageError where something is there that may not be replaced.

    `inputs`: files that are read; none of them is ever replaced, since it is read while the result is written.
    """
    for each in inputs:
        with contextlib.suppress(OSError):
            if os.path.samefile(each, path):
                raise UsageError(f"{os.fsdecode(path)}: it is read for this; give another -o")
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot(path, error) from error
    if not force:
        raise UsageError(f"{os.fsdecode(path)}: it is there already; give another -o, or --force to replace it")
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISLNK(found.st_mode):
        raise UsageError(f"{os.fsdecode(path)}: it is no regular file; give another -o")


def cannot(path: bytes, error: OSError) -> FileError:
    """An error of writing, with its remedy."""
    reason = (error.strerror or str(error)).lower()
    remedy = _REMEDIES.get(error.errno or 0, "give another -o")
    return FileError(f"it cannot be written: {reason}; {remedy}", os.fsdecode(path))


class Draft:
    """The file that will be `path`. Leaving the context without `finish` leaves nothing behind."""

    def __init__(self, path: bytes, *, force: bool = False, shown: bytes | None = None) -> None:
        """`shown` is how errors call it. Raises UsageError where something is there already, FileError."""
        self.path = os.path.abspath(path)
        self.shown = shown or self.path
        self._force = force
        refuse_existing(self.path, force=force)
        folder = os.path.dirname(self.path)
        self._temporary: bytes | None = None
        try:
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise cannot(self.shown, error) from error
        try:
            self.fd = self._open()
        except OSError as error:
            os.close(self._folder)
            raise cannot(self.shown, error) from error

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            return os.open(b".", flags | os.O_TMPFILE, 0o666, dir_fd=self._folder)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
        self._temporary = _temporary_name()
        return os.open(self._temporary, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._folder)

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._folder)
        os.close(self._folder)

    def reserve(self, size: int) -> None:
        """Have the disk keep so many bytes, so that a full one is told of before the work. Raises FileError."""
        try:
            os.posix_fallocate(self.fd, 0, size)
        except OSError as error:
            # A file system may not know how to reserve; then writing tells.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise cannot(self.shown, error) from error

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Raises FileError."""
        view = memoryview(data).cast("B")
        try:
            while view:
                count = os.pwrite(self.fd, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise cannot(self.shown, error) from error

    def finish(self) -> None:
        """Make it durable, and give it its name.

        Raises UsageError where something came to stand there meanwhile, FileError.
        """
        try:
            os.fsync(self.fd)
            if self._temporary is None:
                self._link()
            else:
                self._rename(self._temporary)
            os.fsync(self._folder)
        except FileExistsError as error:
            name = os.fsdecode(self.shown)
            raise UsageError(f"{name}: it came to be there meanwhile; give another -o") from error
        except OSError as error:
            raise cannot(self.shown, error) from error

    def _link(self) -> None:
        ours, name = b"/proc/self/fd/%d" % self.fd, os.path.basename(self.path)
        if not self._force:
            os.link(ours, name, dst_dir_fd=self._folder, follow_symlinks=True)
            return
        self._temporary = _temporary_name()
        os.link(ours, self._temporary, dst_dir_fd=self._folder, follow_symlinks=True)
        self._rename(self._temporary)

    def _rename(self, temporary: bytes) -> None:
        name = os.path.basename(self.path)
        if not self._force:
            # A link does not replace what came to stand there since; where there are no links, a look has to do.
            try:
                os.link(temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except FileExistsError:
                raise
            except OSError:
                refuse_existing(self.path, force=False)
            else:
                return
        os.rename(temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._temporary = None


def _temporary_name() -> bytes:
    return b".lorad-%s.tmp" % secrets.token_hex(8).encode()
