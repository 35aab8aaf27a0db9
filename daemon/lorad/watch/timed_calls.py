"""Calls to file systems that may not answer, which are waited for only as long as the file system answers at all.

A server that is gone, or a FUSE program that hangs, holds up every call to its mount, for good. So such calls are
made in a thread that belongs to the mount and to the thread that waits for it. That thread goes on when the mount
does not even say how full it is. On local disks calls are made as they are: those answer, if only with an error.
What a symbolic link leads to is seen as far as `led` tells.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import math
import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from lorad.watch.mounts import Mount, MountTable, find, may_hang

_T = TypeVar("_T")

#: Seconds that a mount may take to say how full it is before it is taken for one that does not answer.
PATIENCE = 2.0
#: Seconds that a call may take on a mount that answers others.
_LONGEST = 60.0
#: Seconds between two looks whether a call that takes long has ended.
GLANCE = 0.05


class NoAnswer(OSError):
    """A file system does not answer."""

    def __init__(self, path: bytes) -> None:
        super().__init__(errno.ETIMEDOUT, "its file system does not answer", path)


class Call(Generic[_T]):
    """A call that is under way, or has ended."""

    def __init__(self, function: Callable[[], _T], path: bytes) -> None:
        self._function = function
        self.path = path
        self._ended = threading.Event()
        self._result: _T
        self._error: BaseException | None = None

    def make(self) -> Call[_T]:
        try:
            self._result = self._function()
        except BaseException as error:
            # It is raised again where the result is asked for.
            self._error = error
        self._ended.set()
        return self

    def ended(self, seconds: float = 0.0) -> bool:
        """Whether it has, or does within so many seconds."""
        return self._ended.wait(seconds) if seconds else self._ended.is_set()

    def result(self) -> _T:
        """What it gave, once it has ended. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result


class _Caller:
    """The thread that makes one thread's calls to one mount."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Call[object]] = queue.SimpleQueue()
        #: A call that was not waited for to its end.
        self.stuck: Call[object] | None = None
        # It may hang for good, and is not to keep the process.
        threading.Thread(target=self._run, name="lorad-calls", daemon=True).start()

    def begin(self, call: Call[object]) -> None:
        self._waiting.put(call)

    def _run(self) -> None:
        while True:
            self._waiting.get().make()


class _Asking:
    """Whether a mount answers. It is asked when a call takes long, at most once a second."""

    def __init__(self, point: bytes) -> None:
        self._point = point
        self._lock = threading.Lock()
        self._asked = self._answered = 0.0

    def hangs(self) -> bool:
        now = time.monotonic()
        with self._lock:
            if self._answered < self._asked:
                return now - self._asked > PATIENCE
            if now - self._asked < 1.0:
                return False
            self._asked = now
        threading.Thread(target=self._ask, name="lorad-asks", daemon=True).start()
        return False

    def _ask(self) -> None:
        with contextlib.suppress(OSError):
            # UnfitAsDifferent what is known of files, this is not kept by any kernel.
            os.statvfs(self._point)
        with self._lock:
            self._answered = time.monotonic()


class _Own(threading.local):
    def __init__(self) -> None:
        self.callers: dict[bytes, _Caller] = {}


_own = _Own()
_lock = threading.Lock()
_asking: dict[bytes, _Asking] = {}
_resolving: dict[bytes, Call[bytes]] = {}
_table: MountTable | None = None
_risky: list[Mount] = []


def begin(path: bytes, function: Callable[..., _T], *arguments: object, **named: object) -> Call[_T]:
    """Begin a call that works on `path`, an absolute path. On a local disk it has ended when this returns.

    Raises NoAnswer where an earlier call of this thread to that mount has not ended yet.
    """
    call = Call(partial(function, *arguments, **named), path)
    point = mount_of(path)
    if point is None:
        return call.make()
    caller = _own.callers.get(point)
    if caller is None:
        caller = _own.callers[point] = _Caller()
    if caller.stuck is not None:
        if not caller.stuck.ended():
            raise NoAnswer(path)
        caller.stuck = None
    caller.begin(call)  # type: ignore[arg-type]
    return call


def do(path: bytes, function: Callable[..., _T], *arguments: object, **named: object) -> _T:
    """Make a call that works on `path`. Raises NoAnswer, which is an OSError, where its mount does not answer."""
    return finish(begin(path, function, *arguments, **named), _LONGEST)


def finish(call: Call[_T], longest: float = math.inf) -> _T:
    """Wait for a call, at most so many seconds, and as long as its mount answers. Raises NoAnswer."""
    since = time.monotonic()
    while not call.ended(GLANCE):
        if hangs(call.path) or time.monotonic() - since > longest:
            give_up(call)
            raise NoAnswer(call.path)
    return call.result()


def stat(path: bytes, *, follow_symlinks: bool = True) -> os.stat_result:
    """As `os.stat`. Raises NoAnswer."""
    return do(path, os.stat, path, follow_symlinks=follow_symlinks)


def which(folder: bytes) -> tuple[int, int] | None:
    """Device and inode of a folder, whatever its name; None where there is none, or none that answers."""
    try:
        status = stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_folder(path: bytes) -> bool:
    """As `os.path.isdir`. Raises NoAnswer."""
    return do(path, os.path.isdir, path)


def led(path: bytes) -> bytes:
    """What a symbolic link says that it leads to, as far as one look tells; the path itself where it is none.

    Where no mount may hang, that is not asked.
    """
    mount_of(path)
    if not _risky:
        return path
    try:
        return os.path.normpath(os.path.join(os.path.dirname(path), do(path, os.readlink, path)))
    except OSError:
        return path


def answers(point: bytes) -> bool:
    """Whether a mount answers; waits for that for a moment."""
    try:
        do(point, os.statvfs, point)
    except NoAnswer:
        return False
    except OSError:
        pass
    return True


def may_be_there(path: bytes) -> bool:
    """Whether a name is there, or cannot be looked at, so that it is not known."""
    try:
        do(path, os.lstat, path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def real(path: bytes, otherwise: bytes = b"") -> bytes:
    """As `os.path.realpath`; where that does not answer, `otherwise` or the path itself."""
    call = _resolving.pop(path, None)
    if call is None:
        call = Call(partial(os.path.realpath, path), path)
        threading.Thread(target=call.make, name="lorad-calls", daemon=True).start()
        call.ended(PATIENCE)
    if call.ended():
        return call.result()
    # Who asks again need not wait again.
    _resolving[path] = call
    return otherwise or os.path.abspath(path)


def through(path: bytes) -> bytes:
    """As `real`, where a mount may hang that a symbolic link on the way may lead to; else the path as it is."""
    mount_of(path)
    return real(path) if _risky else path


def give_up(call: Call[_T]) -> None:
    """Do not wait for a call. Until it has ended after all, this thread's calls to its mount raise NoAnswer."""
    point = mount_of(call.path)
    if point is not None and point in _own.callers:
        _own.callers[point].stuck = call  # type: ignore[assignment]


def hangs(path: bytes) -> bool:
    """Whether the mount of a path does not answer; False while that is not known. Never blocks."""
    point = mount_of(path)
    if point is None:
        return False
    with _lock:
        asking = _asking.setdefault(point, _Asking(point))
    return asking.hangs()


def mount_of(path: bytes) -> bytes | None:
    """The mount point of a path, if that mount may hang."""
    global _table, _risky  # noqa: PLW0603 - there is one mount table for all
    with _lock:
        if _table is None or _table.changed():
            if _table is None:
                _table = MountTable()
                atexit.register(_table.close)
            _risky = [mount for mount in _table.mounts if may_hang(mount)]
        if find(_risky, path) is None:
            return None
        # Another one may be mounted below it.
        mount = find(_table.mounts, path)
    return mount.point if mount is not None and may_hang(mount) else None
