"""What of a plan would be refused when it is carried out, and why: looked at beforehand, in an action's own words.

Each folder, mount and kept file is looked at once a plan. What cannot be told is left to the action, which looks
again in any case: a step that stays is no promise, and one that is taken out would have failed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from loracore import causes
from loracore.causes import words
from loracore.paths import shown
from lorad.dedupe.abilities import Abilities
from lorad.dedupe.action.journal_file import QUARANTINE as IN_STATE
from lorad.dedupe.action.registry import ACTIONS
from lorad.dedupe.aliases import Aliases
from lorad.dedupe.plan import Plan, Step
from lorad.dedupe.rootlock import RootLocks
from lorad.dedupe.sets import Skipped
from lorad.library.keepers import is_inside
from lorad.watch import calls
from lorad.watch.mounts import Mount, Mounted, is_locked, is_plain, project
from lorad.watch.scanner import QUARANTINE as IN_ROOT
from lorad.watch.statx import Status, access_error, owns_all, statx

MOUNTED_INSIDE = "something is mounted in its folder; unmount that first"
NOT_IN_ROOT = "it lies in no watched folder any more; see [watch] roots"
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


class Refusals:
    """For one thread. `locks`: of the roots; without them, other lorads are looked for and no root is taken."""

    def __init__(self, state_dir: str, locks: RootLocks | None = None) -> None:
        self._state_dir = os.fsencode(state_dir)
        self.locks = locks or RootLocks("")
        self._mounts = Mounted()
        self._abilities = Abilities()
        self.aliases = Aliases(self._mounts)
        self._begin((), by_itself=False)

    def close(self) -> None:
        self._mounts.close()

    def sifted(self, plan: Plan, roots: Sequence[bytes], *, by_itself: bool = False) -> Plan:
        """The plan with the steps that would be refused among what is skipped, each with the reason.

        A file goes with all its names or not at all. `by_itself`: see `Aliases.refusal`.
        """
        if plan.action == "report":
            return plan
        self._begin(roots, by_itself=by_itself)
        files: dict[tuple[int, int], list[Step]] = defaultdict(list)
        for step in plan.steps:
            files[step.gone.dev, step.gone.ino].append(step)
        steps: list[Step] = []
        skipped = list(plan.skipped)
        for names in files.values():
            for row in self._sift(names):
                if isinstance(row, Skipped):
                    skipped.append(row)
                else:
                    steps.append(row)
        steps.sort(key=lambda row: (row.kept, row.path))
        skipped.sort(key=lambda row: (row.kept, row.path))
        return plan._replace(steps=steps, skipped=skipped, bytes=sum(step.bytes for step in steps))

    def refusal(self, step: Step, roots: Sequence[bytes], *, by_itself: bool = False) -> str:
        """Why this step would be refused now; empty where nothing speaks against it."""
        self._begin(roots, by_itself=by_itself)
        return self._refusal(step)

    def _begin(self, roots: Sequence[bytes], *, by_itself: bool) -> None:
        """Forget what was seen, as it may have changed since the last plan."""
        self._abilities.renew(self._mounts.renew())
        self._roots = sorted(roots, key=len, reverse=True)
        self._by_itself = by_itself
        self._places: dict[bytes, Place | None] = {}
        self._kept: dict[bytes, tuple[Status | None, str]] = {}
        self._kept_access: dict[bytes, tuple[object, ...]] = {}
        self._quarantines: dict[tuple[object, ...], tuple[str, bytes]] = {}
        self._projects: dict[bytes, tuple[int, bool]] = {}

    def _sift(self, names: list[Step]) -> Iterator[Step | Skipped]:
        """What becomes of the steps of one file. Its bytes count with the last of its names."""
        if len(names) == 1:
            why = self._refusal(names[0])
            yield Skipped(*names[0][:3], why) if why else names[0]
            return
        entries: dict[object, list[tuple[str, Step]]] = defaultdict(list)
        for step in names:
            entries[self._entry(step.path)].append((self._refusal(step), step))
        # Of several mounts of one folder, any that can be written will do.
        firsts = [min(seen, key=lambda each: bool(each[0])) for seen in entries.values()]
        stays = next(((why, step) for why, step in firsts if why), None)
        for (_, first), seen in zip(firsts, entries.values(), strict=True):
            for why, step in seen:
                if stays is not None:
                    yield Skipped(
                        *step[:3], why or f"its other name {shown(stays[1].path)} has to stay: {stays[0]}"
                    )
                elif step is not first:
                    yield Skipped(*step[:3], f"it is the name {shown(first.path)}, seen through another mount")
                else:
                    last = step is firsts[-1][1]
                    yield step._replace(bytes=sum(each.bytes for each in names) if last else 0)

    def _entry(self, path: bytes) -> object:
        """The entry that a name is, by whichever mount it is seen."""
        place = self._place(os.path.dirname(path))
        return (place.status.dev, place.status.ino, os.path.basename(path)) if place else path

    def _refusal(self, step: Step) -> str:
        if calls.hangs(step.path) or calls.hangs(step.kept):
            return causes.NO_ANSWER
        place, kept_at = map(self._place, map(os.path.dirname, (step.folder or step.path, step.kept)))
        if place is None or kept_at is None:
            # It went, or cannot be looked at.
            return causes.NO_ANSWER if calls.hangs(step.path) or calls.hangs(step.kept) else ""
        kept, why = self._kept_status(step.kept)
        with suppress(OSError):
            status = statx(step.path)
            if kept is not None:
                why = next(filter(None, self._of_places(step, place, kept_at)), why)
                return why or next(filter(None, self._of_action(step, place, status, kept)), "")
        return ""

    def _of_places(self, step: Step, place: Place, kept_at: Place) -> Iterator[str]:
        yield NOT_IN_ROOT if self._roots and not place.root else ""
        # What another lorad may move away is not to be relied on.
        yield place.lock or kept_at.lock
        if place.status.dev != kept_at.status.dev:
            yield self.aliases.refusal(step.path, step.kept, by_itself=self._by_itself)

    def _of_action(self, step: Step, place: Place, status: Status, kept: Status) -> Iterator[str]:
        """In the order in which the action would meet them."""
        whole, action = step.folder, ACTIONS[step.action]
        path = whole or step.path
        yield words(causes.LEASE, self._abilities.lease(step.path, status))
        if action.needs_exchange and self._has_other_access(step, status, kept):
            yield causes.OTHER_ACCESS
        if not action.hides:
            yield words(causes.SHARE, errno.EXDEV if kept.dev != status.dev else self._share_error(place))
            yield words("", errno.EROFS if place.error == errno.EROFS else errno.EPERM * status.is_immutable)
            return
        if action.needs_equal_bytes:
            yield words(causes.LINK, self._link_error(step, place, kept))
        if action.quarantines:
            yield self._why_not_moved(path, place)
        if whole:
            yield MOUNTED_INSIDE if self._mounts.within(path) else ""
            status = statx(path)
        first, then = action.calls
        yield words(first, place.error)
        yield words(then, self._rename_error(step, path, place, status))

    def _rename_error(self, step: Step, path: bytes, place: Place, status: Status) -> int:
        """Of the new name that each action but `reflink` gives the file, or its whole folder."""
        if os.path.basename(path) in place.covered:
            return errno.EBUSY
        if place.locked or is_locked(path, status) or _is_anothers(place.status, status):
            return errno.EPERM
        action = ACTIONS[step.action]
        if action.needs_exchange:
            return self._abilities.exchange(place.path, place.status, place.kind)
        if not step.folder:
            return self._abilities.rename_new(place.path, place.status, place.kind)
        if action.quarantines and (number := access_error(path, os.W_OK)):
            return number
        if place.mount and place.kind == b"overlay" and b"redirect_dir=on" not in place.mount.options:
            return errno.EXDEV
        return self._abilities.rename_folder(place.path, place.status, place.kind)

    def _share_error(self, place: Place) -> int:
        return self._abilities.share(place.path, place.status, place.kind)

    def _link_error(self, step: Step, place: Place, kept: Status) -> int:
        if place.error != errno.EROFS and (
            _are_apart(place, kept) or self._another_project(step.kept, place.path)
        ):
            return errno.EXDEV
        return errno.EPERM if not place.error and is_locked(step.kept, kept) else 0

    def _has_other_access(self, step: Step, status: Status, kept: Status) -> bool:
        """Whether the two differ in who may use them; a link can have but one owner, mode and ACL."""
        if step.kept not in self._kept_access:
            self._kept_access[step.kept] = _access(step.kept, kept)
        return _access(step.path, status) != self._kept_access[step.kept]

    def _why_not_moved(self, path: bytes, place: Place) -> str:
        key = *_where(place.status), place.root
        if key not in self._quarantines:
            self._quarantines[key] = self._quarantine(place)
        why, folder = self._quarantines[key]
        return why or words(causes.QUARANTINE, errno.EXDEV * self._another_project(path, folder))

    def _quarantine(self, place: Place) -> tuple[str, bytes]:
        """Why files of this place cannot be moved into quarantine, or the folder that they are moved into."""
        for top, name in ((self._state_dir, os.fsencode(IN_STATE)), (place.root or b"/", IN_ROOT)):
            around = self._place(os.path.realpath(top))
            path = os.path.join(top, name)
            with suppress(OSError):
                status = statx(path) if os.path.lexists(path) else None
                if around is not None and _where(status or around.status) == _where(place.status):
                    return _why_not_used(path, status, around), path if status else around.path
        return words(causes.QUARANTINE, errno.EXDEV), b""

    def _place(self, folder: bytes) -> Place | None:
        if folder not in self._places:
            self._places[folder] = None
            with suppress(OSError):
                # Nothing else is asked of a file system that does not answer.
                calls.stat(folder)
                status = statx(folder)
                mount = self._mounts.mount(folder, status)
                error = access_error(folder, os.W_OK | os.X_OK)
                locked = is_locked(folder, status)
                root = next((root for root in self._roots if is_inside(folder, root)), b"")
                lock = self.locks.refusal(folder) if root else ""
                covered = self._mounts.covered(folder, mount)
                self._places[folder] = Place(folder, status, mount, error, locked, covered, root, lock)
        return self._places[folder]

    def _kept_status(self, path: bytes) -> tuple[Status | None, str]:
        """A kept file, and why it cannot be held."""
        if path not in self._kept:
            self._kept[path] = None, ""
            with suppress(OSError):
                status = statx(path)
                why = words(causes.LEASE, self._abilities.lease(path, status))
                self._kept[path] = status, f"the kept file: {why}" if why else ""
        return self._kept[path]

    def _another_project(self, path: bytes, folder: bytes) -> bool:
        if folder not in self._projects:
            self._projects[folder] = project(folder)
        number, inherits = self._projects[folder]
        return inherits and project(path)[0] != number


def _where(status: Status) -> tuple[int, int]:
    """Between folders that differ in this, nothing can be moved."""
    return status.dev, status.mount


def _are_apart(place: Place, kept: Status) -> bool:
    """Whether no hard link leads from a folder to a file. An overlay has more devices than one."""
    if kept.mount and place.status.mount and not is_plain(place.mount):
        return kept.mount != place.status.mount
    return _where(kept) != _where(place.status)


def _is_anothers(folder: Status, status: Status) -> bool:
    """Whether a sticky folder keeps this process from renaming a file of another user."""
    mine = os.geteuid() in (folder.uid, status.uid)
    return bool(folder.mode & stat.S_ISVTX) and not mine and not owns_all()


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
