"""One acting lorad a root: a locked file at its top, with the token of the journal that names its actions.

The lock nearest to a folder counts: below `/m/sub`, which one lorad holds, another one that holds `/m` only
reports. A root below one that is held is not taken at all. Where a root's top cannot be written, the first folder
on the way down that can be is taken, when something is to be done there.

The lock is flock(2)'s. The file also says which process holds it, since a union mount and its branches do not
share locks. It is removed at the end; one that a crash leaves holds nothing.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from loracore.paths import shown
from lorad.library.keepers import is_inside

LOCK = b".lorad-lock"
#: Seconds for which what was seen is believed.
_BELIEVED = 1.0
#: The most that is read of a lock file.
_LONGEST = 512
#: How often a lock is tried again that was removed just then.
_TRIES = 5
#: The longest token shown, and what stands for none.
_TOKEN, _NO_TOKEN = 64, "-"
#: Neither a FIFO nor a link is waited for or followed.
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Process(NamedTuple):
    """A process of this machine, whatever others have its number in other containers or after it."""

    pid: int
    started: str
    boot: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """None where there is no such process."""
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                boot = file.read().strip()
            with open(f"/proc/{pid}/stat", "rb") as stat_file:
                # The second field is a name that may hold anything; starttime is the 22nd (proc(5)).
                return cls(pid, stat_file.read().rpartition(b") ")[2].split()[19].decode(), boot)
        except (OSError, IndexError):
            return None


class Holder(NamedTuple):
    """The lorad that acts in a folder and below it; `ours`: this process. `trouble`: what its lock is instead."""

    folder: bytes
    ours: bool = False
    token: str = ""
    pid: int = 0
    trouble: str = ""

    def __str__(self) -> str:
        if self.trouble:
            return f"{shown(os.path.join(self.folder, LOCK))} {self.trouble}"
        said = [f"token {self.token}"] * bool(self.token) + [f"pid {self.pid}"] * bool(self.pid)
        which = f" ({', '.join(said)})" if said else ""
        return f"another lorad{which} acts in {shown(self.folder)}; stop that one, or leave the folder to it"


class RootLocks:
    """The locks of this process. `token` says that of its journal, which may be made later. From any thread."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token
        self._lock = threading.RLock()
        self._roots: tuple[bytes, ...] = ()
        #: Descriptors, by folder.
        self._held: dict[bytes, int] = {}
        self._seen: dict[bytes, Holder | None] = {}
        self._seen_at = 0.0

    def use(self, roots: Iterable[bytes]) -> dict[bytes, str]:
        """Hold these roots and no others; returns those in which another lorad acts, with the words for it."""
        with self._lock:
            self._roots = tuple(roots)
            for folder in [each for each in self._held if not any(is_inside(each, root) for root in self._roots)]:
                self._release(folder)
            self._seen.clear()
            return {root: why for root in self._roots if (why := self.refusal(root))}

    def refusal(self, folder: bytes) -> str:
        """Why nothing may be done to files in a folder: another lorad acts there. Empty where none does.

        What is not held yet is taken, so that a root is ours as soon as the other lorad has ended.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._seen_at > _BELIEVED:
                self._seen.clear()
                self._seen_at = now
            holder = self._nearest(folder) or self._take_for(folder)
        return "" if holder is None or holder.ours else str(holder)

    def close(self) -> None:
        with self._lock:
            for folder in list(self._held):
                self._release(folder)

    def _nearest(self, folder: bytes) -> Holder | None:
        way = []
        while folder not in self._seen:
            way.append(folder)
            folder = os.path.dirname(folder)
            if folder == way[-1]:
                break
        nearest = self._seen.get(folder)
        for each in reversed(way):
            nearest = self._seen[each] = holder_at(each) or nearest
        return nearest

    def _take_for(self, folder: bytes) -> Holder | None:
        """Take the root that a folder lies in, or what can be taken on the way down; None where nothing can."""
        root = max((root for root in self._roots if is_inside(folder, root)), key=len, default=None)
        holders = map(self._take, _down(root, folder)) if root is not None else iter(())
        holder = next((holder for holder in holders if holder is not None), None)
        if holder is not None:
            self._seen.clear()
        return holder

    def _take(self, folder: bytes) -> Holder | None:
        """The holder of a folder from now on; None where no lock can be made in it."""
        self._release(folder)
        for _ in range(_TRIES):
            with suppress(FileNotFoundError, FileExistsError):
                holder = holder_at(folder)
                if holder is not None:
                    return holder
                try:
                    fd = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | _OPEN, 0o644)
                except OSError as error:
                    if error.errno not in (errno.EACCES, errno.EPERM) or not _remove_left(folder):
                        return None
                    continue
                if _is_locked(fd, fcntl.LOCK_EX) and _leads_to(folder, fd):
                    self._held[folder] = fd
                    _write(fd, self._token())
                    return holder_at(folder)
                os.close(fd)
        return Holder(folder, trouble="is made and removed all the time; try again")

    def _release(self, folder: bytes) -> None:
        fd = self._held.pop(folder, None)
        if fd is not None:
            with suppress(OSError):
                if _leads_to(folder, fd):
                    os.unlink(os.path.join(folder, LOCK))
            os.close(fd)


def holder_of(folder: bytes) -> Holder | None:
    """The lorad that acts in a folder: the holder of the nearest lock, in it or above it."""
    while (holder := holder_at(folder)) is None and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return holder


def holder_at(folder: bytes) -> Holder | None:
    """The holder of the lock that lies in this very folder; None where there is none, or it holds nothing."""
    path = os.path.join(folder, LOCK)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return Holder(folder, trouble="is no file of lorad's; remove it")
        fd = os.open(path, os.O_RDONLY | _OPEN)
    except PermissionError:
        return Holder(folder, trouble="cannot be read; remove it, or run one lorad alone there")
    except OSError:
        return None
    try:
        token, process = _said(fd)
        if process is not None and process == _this(os.getpid()):
            return Holder(folder, True, token, process.pid)
        if _is_locked(fd, fcntl.LOCK_SH) and (process is None or process != Process.of(process.pid)):
            return None
        return Holder(folder, False, token, process.pid if process else 0)
    finally:
        os.close(fd)


@functools.lru_cache(1)
def _this(pid: int) -> Process | None:
    return Process.of(pid)


def _said(fd: int) -> tuple[str, Process | None]:
    """What the file says of its holder: its journal's token, and the process."""
    words = os.pread(fd, _LONGEST, 0).decode("ascii", "replace").split()
    if len(words) != 4 or not words[1].isdecimal():
        return "", None
    return words[0].replace(_NO_TOKEN, "")[:_TOKEN], Process(int(words[1]), words[2], words[3])


def _write(fd: int, token: str) -> None:
    """A disk that is full may take nothing; the lock holds nevertheless."""
    process = _this(os.getpid())
    with suppress(OSError):
        os.ftruncate(fd, 0)
        if process is not None:
            os.pwrite(fd, f"{token or _NO_TOKEN} {process.pid} {process.started} {process.boot}\n".encode(), 0)


def _is_locked(fd: int, kind: int) -> bool:
    """Whether the lock is ours now; also where the file system has none, and the file alone speaks."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _leads_to(folder: bytes, fd: int) -> bool:
    try:
        return os.path.samestat(os.lstat(os.path.join(folder, LOCK)), os.fstat(fd))
    except FileNotFoundError:
        return False


def _remove_left(folder: bytes) -> bool:
    """Remove a lock that holds nothing, where it is another user's; whether there was one."""
    try:
        os.unlink(os.path.join(folder, LOCK))
    except OSError:
        return False
    return True


def _down(root: bytes, folder: bytes) -> Iterator[bytes]:
    """The root, and each folder from there down to this one."""
    way = [folder]
    while way[-1] != root and len(way[-1]) > len(root):
        way.append(os.path.dirname(way[-1]))
    yield from reversed(way)
