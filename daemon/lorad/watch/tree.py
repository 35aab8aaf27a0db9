"""The folders of one root that are watched, and those that cannot be, in words that say what to do about it."""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Callable, Mapping

from lorad.watch.inotify import Instance
from lorad.watch.root_settings import Plan
from lorad.watch.scanner import is_folder

#: What it is called when a name is no folder any more: the event that says so is on its way.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Tree:
    """Watches for a folder and all in it, kept as folders come and go.

    A folder is watched first and listed then, so what is made in it meanwhile is either listed or notified. What
    is visited is what the scanner visits, in its order, so that a folder that can be reached in two ways is known
    under the same path here and there.
    """

    def __init__(self, instance: Instance, plan: Plan, beat: Callable[[], None]) -> None:
        """`beat` is called for each folder, and may raise to stop."""
        self._instance = instance
        self._root = plan.root
        self._follow = plan.follow
        self._left_out = plan.left_out
        self._beat = beat
        self._paths: dict[int, bytes] = {}
        self._watches: dict[bytes, int] = {}
        self._inside: defaultdict[bytes, set[bytes]] = defaultdict(set)
        #: Folders that changes are not noticed in, with the reason.
        self.unwatched: dict[bytes, OSError | str] = {}
        #: Mount points whose file system sends no events of changes made elsewhere, with the reason.
        self.remote: Mapping[bytes, str] = {}

    @property
    def watched(self) -> int:
        return len(self._watches)

    @property
    def folders(self) -> int:
        """How many there are, watched or not."""
        return len(self._watches) + sum(folder not in self._watches for folder in self.unwatched)

    def path(self, watch: int) -> bytes | None:
        """The folder of a watch; None when it was given up before this event of it was read."""
        return self._paths.get(watch)

    def knows(self, folder: bytes) -> bool:
        return folder in self._watches or folder in self.unwatched

    def adopt(self, folder: bytes) -> bool:
        """Watch a folder and all in it, as far as that is possible; whether any of it was not watched before."""
        return self._visit(folder, None)

    def renew(self) -> None:
        """Make sure of every folder, where what happened to some of them was not heard."""
        seen: set[bytes] = set()
        self._visit(self._root, seen)
        for folder in [folder for folder in (*self._watches, *self.unwatched) if folder not in seen]:
            self.forget(folder)

    def forget(self, folder: bytes) -> None:
        """A folder is not there any more, nor is what was in it."""
        self._inside[os.path.dirname(folder)].discard(folder)
        waiting = [folder]
        while waiting:
            folder = waiting.pop()
            waiting += self._inside.pop(folder, ())
            self.unwatched.pop(folder, None)
            watch = self._watches.pop(folder, None)
            if watch is not None:
                self._paths.pop(watch, None)
                self._instance.remove(watch)

    def ended(self, watch: int) -> None:
        """The kernel has given up a watch: its folder was deleted, or its file system unmounted."""
        folder = self._paths.pop(watch, None)
        if folder is not None and self._watches.get(folder) == watch:
            del self._watches[folder]

    def unreadable(self, folder: bytes) -> None:
        """A folder that may be watched already can no more be listed."""
        self._unwatched(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def _visit(self, folder: bytes, seen: set[bytes] | None) -> bool:
        fresh, waiting = False, [folder]
        while waiting:
            folder = waiting.pop()
            self._beat()
            if folder in self.remote:
                self._unwatched(folder, self.remote[folder])
            elif self._take_up(folder) or (seen is not None and self.knows(folder)):
                fresh = True
                waiting += self._folders_in(folder)
            if seen is not None:
                seen.add(folder)
        return fresh

    def _take_up(self, folder: bytes) -> bool:
        """Watch one folder; whether it is to be listed."""
        again = self.unwatched.pop(folder, None) is not None
        try:
            watch = self._instance.add(folder, follow=self._follow)
            known = self._paths.get(watch)
            if known is not None and known != folder:
                if _is_same(known, folder, follow=self._follow):
                    return False
                # Moved, which the event that is on its way will say too.
                self.forget(known)
                watch = self._instance.add(folder, follow=self._follow)
        except OSError as error:
            if error.errno in _GONE:
                self.forget(folder)
                return False
            self._unwatched(folder, error)
            return True
        if self._watches.get(folder) == watch:
            return again
        if folder in self._watches:
            # Another folder of this name was here. It and all in it are gone.
            self.forget(folder)
        self._paths[watch] = folder
        self._watches[folder] = watch
        self._place(folder)
        return True

    def _folders_in(self, folder: bytes) -> list[bytes]:
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=os.DirEntry.inode)
        except OSError as error:
            if error.errno not in _GONE:
                self._unwatched(folder, error)
            return []
        return [
            entry.path
            for entry in entries
            if is_folder(entry, follow=self._follow)
            and not self._left_out.entry(entry.path)
            and not (entry.is_symlink() and self._left_out.target(entry.path))
        ]

    def _unwatched(self, folder: bytes, reason: OSError | str) -> None:
        self.unwatched[folder] = reason
        self._place(folder)

    def _place(self, folder: bytes) -> None:
        if folder != self._root:
            self._inside[os.path.dirname(folder)].add(folder)


def _is_same(one: bytes, other: bytes, *, follow: bool) -> bool:
    """Whether two paths lead to one folder now."""
    look = os.stat if follow else os.lstat
    try:
        return os.path.samestat(look(one), look(other))
    except OSError:
        return False


_SYSCTL = "/proc/sys/fs/inotify"


def explain(tree: Tree) -> str:
    """The reason that holds for most: a limit before a folder that may not be read."""
    for reason in tree.unwatched.values():
        if isinstance(reason, OSError) and reason.errno == errno.ENOSPC:
            return (
                f"{tree.watched} of {tree.folders} folders are watched, as this user can have no more watches; "
                f"allow more: sysctl fs.inotify.max_user_watches={_more('max_user_watches', tree.folders)}"
            )
    folder, reason = next(iter(tree.unwatched.items()))
    more = f" and {len(tree.unwatched) - 1} more" if len(tree.unwatched) > 1 else ""
    if isinstance(reason, str):
        return f"{os.fsdecode(folder)}{more}: {reason}"
    word = (reason.strerror or str(reason)).lower()
    return f"{os.fsdecode(folder)}{more} cannot be watched: {word}; give the daemon's user the right to read it"


def explain_instance(error: OSError) -> str:
    """Why there is no inotify instance for a root."""
    if error.errno == errno.EMFILE:
        remedy = f"sysctl fs.inotify.max_user_instances={_more('max_user_instances', 0)}"
        return f"this user can have no more inotify instances; allow more: {remedy}"
    return f"inotify cannot be used: {(error.strerror or str(error)).lower()}"


def _more(limit: str, needed: int) -> int:
    """Twice what is allowed now, or what is needed with as much again to spare."""
    try:
        with open(f"{_SYSCTL}/{limit}", "rb") as file:
            now = int(file.read())
    except (OSError, ValueError):
        now = 0
    return 2 * max(now, needed, 64)
