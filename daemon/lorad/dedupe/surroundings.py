"""What a plan's refusals look at: folders, mounts, kept files and quarantines, each once a plan."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from loracore import causes
from loracore.causes import words
from loracore.paths import shown
from lorad.dedupe.abilities import Abilities
from lorad.dedupe.action.journal_file import QUARANTINE as IN_STATE
from lorad.dedupe.rootlock import RootLocks
from lorad.library.keepers import is_inside
from lorad.watch import timed_calls
from lorad.watch.mounts import Mount, Mounted, is_locked, project
from lorad.watch.scanner import QUARANTINE as IN_ROOT
from lorad.watch.statx import Status, access_error, statx

#: Extended attributes that decide who may read.
_ACCESS = ("system.posix_acl_access", "security.")


class Place(NamedTuple):
    """A folder in `root`. `error`: of a new name in it; `covered`: names that something is mounted on."""

    path: bytes
    status: Status
    mount: Mount | None
    error: int
    locked: bool
    covered: frozenset[bytes]
    root: bytes
    lock: str

    @property
    def kind(self) -> bytes:
        return self.mount.kind if self.mount else b""


class Surroundings:
    """For one thread. `locks`: of the roots; without them, other lorads are looked for and no root is taken."""

    def __init__(self, state_dir: str, locks: RootLocks | None) -> None:
        self._state_dir = os.fsencode(state_dir)
        self.locks = locks or RootLocks("")
        self.mounts = Mounted()
        self.abilities = Abilities()
        self.begin(())

    def begin(self, roots: Sequence[bytes]) -> None:
        """Forget what was seen, as it may have changed since the last plan."""
        self.abilities.renew(self.mounts.renew())
        self.roots = sorted(roots, key=len, reverse=True)
        self._places: dict[bytes, Place | None] = {}
        self._kept: dict[bytes, tuple[Status | None, str]] = {}
        self._kept_access: dict[bytes, tuple[object, ...]] = {}
        self._quarantines: dict[tuple[object, ...], tuple[str, bytes]] = {}
        self._projects: dict[bytes, tuple[int, bool]] = {}

    def place(self, folder: bytes) -> Place | None:
        """A folder; None where it cannot be looked at."""
        if folder not in self._places:
            self._places[folder] = None
            with suppress(OSError):
                # Nothing else is asked of a file system that does not answer.
                timed_calls.stat(folder)
                status = statx(folder)
                mount = self.mounts.mount(folder, status)
                error = access_error(folder, os.W_OK | os.X_OK)
                locked = is_locked(folder, status)
                root = next((root for root in self.roots if is_inside(folder, root)), b"")
                lock = self.locks.refusal(folder) if root else ""
                covered = self.mounts.covered(folder, mount)
                self._places[folder] = Place(folder, status, mount, error, locked, covered, root, lock)
        return self._places[folder]

    def kept(self, path: bytes) -> tuple[Status | None, str]:
        """A kept file, and why it cannot be held."""
        if path not in self._kept:
            self._kept[path] = None, ""
            with suppress(OSError):
                status = statx(path)
                why = words(causes.LEASE, self.abilities.lease(path, status))
                self._kept[path] = status, f"the kept file: {why}" if why else ""
        return self._kept[path]

    def has_other_access(self, path: bytes, status: Status, kept_path: bytes, kept: Status) -> bool:
        """Whether the two differ in who may use them; a link can have but one owner, mode and ACL."""
        if kept_path not in self._kept_access:
            self._kept_access[kept_path] = _access(kept_path, kept)
        return _access(path, status) != self._kept_access[kept_path]

    def another_project(self, path: bytes, folder: bytes) -> bool:
        """Whether a file has another project quota than what comes to lie in a folder."""
        if folder not in self._projects:
            self._projects[folder] = project(folder)
        number, inherits = self._projects[folder]
        return inherits and project(path)[0] != number

    def quarantine(self, place: Place) -> tuple[str, bytes]:
        """Why files of this place cannot be moved into quarantine, or the folder that they are moved into."""
        key = *where(place.status), place.root
        if key not in self._quarantines:
            self._quarantines[key] = self._quarantine(place)
        return self._quarantines[key]

    def _quarantine(self, place: Place) -> tuple[str, bytes]:
        for top, name in ((self._state_dir, os.fsencode(IN_STATE)), (place.root or b"/", IN_ROOT)):
            around = self.place(os.path.realpath(top))
            path = os.path.join(top, name)
            with suppress(OSError):
                status = statx(path) if os.path.lexists(path) else None
                if around is not None and where(status or around.status) == where(place.status):
                    return _why_not_used(path, status, around), path if status else around.path
        return words(causes.QUARANTINE, errno.EXDEV), b""


def where(status: Status) -> tuple[int, int]:
    """Between folders that differ in this, nothing can be moved."""
    return status.dev, status.mount


def _why_not_used(path: bytes, status: Status | None, around: Place) -> str:
    """Why files cannot be moved into a quarantine (None: to be made in `around`); empty where they can."""
    number = around.error if status is None else errno.ENOTDIR * (not stat.S_ISDIR(status.mode))
    if number:
        return f"{shown(path)}: {causes.no_quarantine(number)}"
    if status and (status.uid != os.geteuid() or status.mode & 0o022):
        return f"{shown(path)}: {causes.STRANGE_QUARANTINE}"
    return ""


def _access(path: bytes, status: Status) -> tuple[object, ...]:
    """What one may do with a file: owner, group, mode, ACL and labels."""
    labels: list[tuple[str, bytes]] = []
    with suppress(OSError):
        for name in sorted(os.listxattr(path, follow_symlinks=False)):
            if name.startswith(_ACCESS):
                labels.append((name, os.getxattr(path, name, follow_symlinks=False)))
    return status.uid, status.gid, stat.S_IMODE(status.mode), labels
