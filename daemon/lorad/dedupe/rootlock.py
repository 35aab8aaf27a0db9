"""One acting lorad a root: a file at its top that says which process acts there, and the token of its journal.

The file nearest to a folder counts: below `/m/sub`, which one lorad holds, another one that holds `/m` only
reports. A root below one that is held is not taken at all. Where a root's top cannot be written, the first folder
on the way down that can be is taken, when something is to be done there.

The file is not kept open, as no disk could be unmounted then. It holds as long as its process lives; where that
cannot be seen, as it runs in another container or on another machine, as long as the file is touched each minute.
flock(2) keeps two from taking it at once. It is removed at the end; one that a crash leaves holds nothing.
"""

from __future__ import annotations

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
from lorad.watch import timed_calls

LOCK = b".lorad-lock"
#: What a reason begins with where another one acts.
HELD_BY_ANOTHER = "another lorad"
#: Seconds for which what was seen is believed.
_BELIEVED = 1.0
#: Seconds between two touches, and after which a process that cannot be seen is taken for dead.
_BEAT, _DEAD = 60.0, 300.0
#: The most that is read of a lock.
_LONGEST = 512
#: How often a lock is tried again that another process takes or removes just then, and seconds in between.
_TRIES, _PAUSE = 5, 0.02
_SILENT = "cannot be looked at: its file system does not answer"
#: Neither a FIFO nor a link is waited for or followed.
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Process(NamedTuple):
    """A process, whichever others have its number: `space` is the PID namespace of its container."""

    pid: int
    started: str
    boot: str
    space: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """One that can be seen from here; None where there is none."""
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                boot = file.read().strip()
            with open(f"/proc/{pid}/stat", "rb") as stat_file:
                # The second field is a name that may hold anything; starttime is the 22nd (proc(5)).
                started = stat_file.read().rpartition(b") ")[2].split()[19].decode()
            return cls(pid, started, boot, os.readlink("/proc/self/ns/pid"))
        except (OSError, IndexError):
            return None

    def is_near(self) -> bool:
        """Whether it could be seen from here, if it lived."""
        here = _this(os.getpid())
        return here is not None and (self.boot, self.space) == (here.boot, here.space)


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
        which = f"(token {self.token}, pid {self.pid})"
        return f"{HELD_BY_ANOTHER} {which} acts in {shown(self.folder)}; stop that one, or leave the folder to it"


class RootLocks:
    """The locks of this process, whose journal has this token. From any thread.

    `believed`: for how many seconds what was seen is.
    """

    def __init__(self, token: str, *, believed: float = _BELIEVED) -> None:
        self._token = token
        self._believed = believed
        self._lock = threading.RLock()
        self._roots: tuple[bytes, ...] = ()
        self._held: set[bytes] = set()
        self._seen: dict[bytes, Holder | None] = {}
        self._seen_at = 0.0
        self._beats: threading.Thread | None = None
        self._closed = threading.Event()

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
            if now - self._seen_at > self._believed:
                self._seen.clear()
                self._seen_at = now
            holder = self._nearest(folder) or self._take_for(folder)
        return "" if holder is None or holder.ours else str(holder)

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            for folder in list(self._held):
                self._release(folder)

    def beat(self) -> None:
        """Touch all locks, for those who do not see this process."""
        for folder in list(self._held):
            holder = holder_at(folder)
            if holder is not None and holder.ours:
                path, now = os.path.join(folder, LOCK), (time.time(),) * 2
                with suppress(OSError):
                    timed_calls.do(folder, os.utime, path, now, follow_symlinks=False)

    def _nearest(self, folder: bytes) -> Holder | None:
        way = []
        while folder not in self._seen:
            way.append(folder)
            folder = os.path.dirname(folder)
            if folder == way[-1]:
                break
        nearest = self._seen.get(folder)
        for each in reversed(way):
            nearest = self._seen[each] = holder_at(each, self._token) or nearest
        return nearest

    def _take_for(self, folder: bytes) -> Holder | None:
        """Take the root that a folder lies in, or what can be taken on the way down; None where nothing can."""
        root = max((root for root in self._roots if is_inside(folder, root)), key=len, default=None)
        ways = _down(root, folder) if root is not None else ()
        holder = next(filter(None, (_answered(_take, each, self._token) for each in ways)), None)
        if holder is not None:
            self._seen.clear()
        if holder is not None and holder.ours:
            self._held.add(holder.folder)
            if self._beats is None:
                self._beats = threading.Thread(target=self._beat_on, name="lorad-root-locks", daemon=True)
                self._beats.start()
        return holder

    def _beat_on(self) -> None:
        while not self._closed.wait(_BEAT):
            self.beat()

    def _release(self, folder: bytes) -> None:
        self._held.discard(folder)
        holder = holder_at(folder)
        if holder is not None and holder.ours:
            with suppress(OSError):
                timed_calls.do(folder, os.unlink, os.path.join(folder, LOCK))


def holder_of(folder: bytes) -> Holder | None:
    """The lorad that acts in a folder: the holder of the nearest lock, in it or above it."""
    while (holder := holder_at(folder)) is None and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return holder


def holder_at(folder: bytes, ours: str = "") -> Holder | None:
    """The holder of the lock that lies in this very folder; None where there is none, or it holds nothing.

    `ours`: our token. With it, a process that cannot be seen was our own before a restart. A file system that does
    not answer is not waited for.
    """
    return _answered(_holder_at, folder, ours)


def _answered(ask: Callable[[bytes, str], Holder | None], folder: bytes, token: str) -> Holder | None:
    try:
        return timed_calls.do(folder, ask, folder, token)
    except timed_calls.NoAnswer:
        return Holder(folder, trouble=_SILENT)


def _holder_at(folder: bytes, ours: str) -> Holder | None:
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
        words = os.pread(fd, _LONGEST, 0).decode("ascii", "replace").split()
        touched = os.fstat(fd).st_mtime
    except OSError:
        return None
    finally:
        os.close(fd)
    if len(words) != 5 or not words[1].isdecimal():
        return None
    token, process = words[0][:64], Process(int(words[1]), *words[2:])
    if process == _this(os.getpid()):
        return Holder(folder, True, token, process.pid)
    if process.is_near():
        lives = process == Process.of(process.pid)
    else:
        lives = token != ours and time.time() - touched < _DEAD
    return Holder(folder, False, token, process.pid) if lives else None


@functools.lru_cache(1)
def _this(pid: int) -> Process | None:
    return Process.of(pid)


def _take(folder: bytes, token: str) -> Holder | None:
    """The holder of a folder from now on; None where no lock can be made in it."""
    path = os.path.join(folder, LOCK)
    for _ in range(_TRIES):
        holder = _holder_at(folder, token)
        if holder is not None:
            return holder
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN, 0o644)
        except PermissionError:
            # It is another user's and holds nothing, or the folder cannot be written.
            try:
                os.unlink(path)
            except OSError:
                return None
            continue
        except OSError:
            return None
        try:
            if _is_locked(fd) and _leads_to(path, fd) and _holder_at(folder, token) is None:
                _write(fd, token)
                return _holder_at(folder, "")
        finally:
            os.close(fd)
        time.sleep(_PAUSE)
    return Holder(folder, trouble="is made and removed all the time; try again")


def _write(fd: int, token: str) -> None:
    process = _this(os.getpid())
    if process is not None:
        with suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, " ".join((token, *map(str, process))).encode() + b"\n", 0)


def _is_locked(fd: int) -> bool:
    """Whether no other process takes the lock just now; also where the file system does not say."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _leads_to(path: bytes, fd: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _down(root: bytes, folder: bytes) -> Iterator[bytes]:
    """The root, and each folder from there down to this one."""
    way = [folder]
    while way[-1] != root and len(way[-1]) > len(root):
        way.append(os.path.dirname(way[-1]))
    yield from reversed(way)
