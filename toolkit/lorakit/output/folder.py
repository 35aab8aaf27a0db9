"""A folder in the making: hidden beside its place until all that belongs in it is there.

Its weight files have no name until the end (`draft`), so a process that is killed leaves a hidden folder without
weights, which nothing takes for a model. The hidden folder is locked (flock(2)) by whoever makes it: one that
nobody holds was left by a kill, and the next that makes a folder beside it takes it away.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol, TypeVar

from loracore.errors import UsageError
from lorakit.output.draft import Draft, cannot

#: renameat2(2).
NOREPLACE, EXCHANGE = 1, 2
#: What a file system says that does not know these flags.
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_AT_FDCWD = -100
#: Names that are tried for a hidden folder.
_TRIES = 100
_HIDDEN = re.compile(rb"\.lorad-[0-9a-f]{16}\.tmp")
_libc = ctypes.CDLL(None, use_errno=True)


class _Finished(Protocol):
    def finish(self) -> None: ...


W = TypeVar("W", bound=_Finished)


def refuse_folder(path: bytes, *, force: bool, kind: Sequence[bytes], inputs: tuple[bytes, ...] = ()) -> None:
    """Raises UsageError where something is there that may not be replaced by a folder.

    With `force`, a folder is replaced that holds one of the files `kind`, and no other: a home folder is not a
    model. `inputs` are never replaced, nor is a folder that one of them lies in.
    """
    name = os.fsdecode(path)
    target = os.path.realpath(path)
    for each in inputs:
        source = os.path.realpath(each)
        if source == target or source.startswith(target + b"/"):
            raise UsageError(f"{name}: it is read for this; give another -o")
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot(path, error) from error
    if not stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{name}: it is there and no folder; give another -o")
    if not force:
        raise UsageError(f"{name}: it is there already; give another -o, or --force to replace it")
    if os.listdir(path) and not any(os.path.exists(os.path.join(path, each)) for each in kind):
        known = " or ".join(map(os.fsdecode, kind))
        raise UsageError(f"{name}: a folder without {known} is not replaced; give another -o")


class FolderDraft:
    """The folder that will be `path`. Leaving the context without `finish` leaves nothing behind."""

    def __init__(self, path: bytes, *, force: bool = False, kind: Sequence[bytes] = ()) -> None:
        """Raises UsageError where something is there that may not be replaced, FileError."""
        self.path = os.path.abspath(path)
        self._force = force
        self._kind = kind
        refuse_folder(self.path, force=force, kind=kind)
        _remove_left(os.path.dirname(self.path))
        try:
            self._hidden, self._lock = _hidden_folder(os.path.dirname(self.path))
        except OSError as error:
            raise cannot(self.path, error) from error
        self._drafts = ExitStack()
        self._whole: list[_Finished] = []

    def __enter__(self) -> FolderDraft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drafts.close()
        shutil.rmtree(self._hidden, ignore_errors=True)
        os.close(self._lock)

    def place(self, name: bytes) -> bytes:
        """Where a file of the folder lies for now, in a folder that is there then. Raises FileError."""
        path = os.path.join(self._hidden, name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except OSError as error:
            raise cannot(self.path, error) from error
        return path

    def draft(self, name: bytes) -> Draft:
        """A file of the folder that has no name until the folder is finished. Raises FileError."""
        return self._drafts.enter_context(Draft(self.place(name), shown=os.path.join(self.path, name)))

    def whole(self, writer: W) -> W:
        """Have `writer.finish` called when the folder is finished, in the order of these calls."""
        self._whole.append(writer)
        return writer

    def write(self, name: bytes, data: bytes) -> None:
        """A small file as a whole. Raises FileError."""
        with Draft(self.place(name), shown=os.path.join(self.path, name)) as draft:
            draft.write(data, 0)
            draft.finish()

    def finish(self) -> None:
        """Give all files and then the folder their names.

        Raises UsageError where something came to stand there meanwhile, FileError.
        """
        for writer in self._whole:
            writer.finish()
        try:
            for folder, _, _ in os.walk(self._hidden, topdown=False):
                _sync(folder)
            self._appear()
            _sync(os.path.dirname(self.path))
        except FileExistsError as error:
            name = os.fsdecode(self.path)
            raise UsageError(f"{name}: it came to be there meanwhile; give another -o") from error
        except OSError as error:
            raise cannot(self.path, error) from error

    def _appear(self) -> None:
        if not os.path.lexists(self.path):
            _rename(self._hidden, self.path, NOREPLACE)
            return
        if not self._force:
            raise FileExistsError(errno.EEXIST, "it is there", self.path)
        # Looked at again: it may have become another since.
        refuse_folder(self.path, force=True, kind=self._kind)
        _rename(self._hidden, self.path, EXCHANGE)
        # What was there has the hidden name now, and goes when the context is left.


def renameat2(source: bytes, target: bytes, flags: int, *, folder: int = _AT_FDCWD) -> None:
    """Rename as these flags of the system call say, in the folder of a descriptor. Raises OSError."""
    call = getattr(_libc, "renameat2", None)
    code = errno.ENOSYS
    if call is not None:
        if call(folder, source, folder, target, flags) == 0:
            return
        code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), target)


def _rename(source: bytes, target: bytes, flags: int) -> None:
    try:
        renameat2(source, target, flags)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    else:
        return
    if flags == NOREPLACE:
        # An empty folder would be replaced in silence; a file or a full folder is an error by itself.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        os.rename(source, target)
        return
    aside = source + b".old"
    os.rename(target, aside)
    try:
        os.rename(source, target)
    except OSError:
        os.rename(aside, target)
        raise
    os.rename(aside, source)


def _sync(folder: bytes) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some file systems cannot sync a folder, and say so with EINVAL.
        with contextlib.suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)


def _hidden_folder(beside: bytes) -> tuple[bytes, int]:
    """A new folder, and the descriptor that locks it. Raises OSError."""
    for _ in range(_TRIES):
        path = os.path.join(beside, b".lorad-%s.tmp" % secrets.token_hex(8).encode())
        os.mkdir(path)
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if _locked(lock) is not False and _is_there(path, lock):
                return path, lock
            os.close(lock)
        # It was taken for a leftover, in the moment before it was locked.
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), os.fsdecode(beside))


def _locked(fd: int) -> bool | None:
    """Whether it is locked now; None where the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_there(path: bytes, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False


def _remove_left(beside: bytes) -> None:
    """Take folders away that a killed process left, as far as that can be done."""
    with contextlib.suppress(OSError):
        for name in filter(_HIDDEN.fullmatch, os.listdir(beside)):
            path = os.path.join(beside, name)
            with contextlib.suppress(OSError):
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    if _locked(lock):
                        shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(lock)
