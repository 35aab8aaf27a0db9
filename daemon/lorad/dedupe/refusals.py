"""What of a plan would be refused when it is carried out, and why: looked at beforehand, in an action's own words.

Each folder, mount and kept file is looked at once a plan. What cannot be told is left to the action, which looks
again in any case: a step that stays is no promise, and one that is taken out would have failed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from lorad.dedupe import reasons
from lorad.dedupe.abilities import Abilities
from lorad.dedupe.aliases import Aliases
from lorad.dedupe.journal import QUARANTINE as IN_STATE
from lorad.dedupe.mounted import Mounted, is_locked, is_plain, project
from lorad.dedupe.plan import Plan, Skipped, Step
from lorad.dedupe.policy import is_inside
from lorad.dedupe.reasons import Call, reason
from lorad.dedupe.rootlock import RootLocks
from lorad.dedupe.statx import Status, access_error, owns_all, statx
from lorad.watch.mounts import Mount
from lorad.watch.scanner import QUARANTINE as IN_ROOT

_LINKS = ("hardlink", "symlink")
#: Actions that take the file out of its folder; a part of an adapter folder is not for them.
_AWAY = ("quarantine", "delete")
#: Extended attributes that decide who may read.
_ACCESS = ("system.posix_acl_access", "security.")


class Place(NamedTuple):
    """A folder. `error`: of a change in it; `covered`: names that something is mounted on; `root`: it lies in."""

    path: bytes
    status: Status
    mount: Mount | None
    error: int
    covered: frozenset[bytes]
    root: bytes
    lock: str

    @property
    def kind(self) -> bytes:
        return self.mount.kind if self.mount else b""


class Refusals:
    """For one thread. `in_adapter_folder` says whether a folder is one whose files mean something together."""

    def __init__(
        self,
        state_dir: str,
        *,
        locks: RootLocks | None = None,
        in_adapter_folder: Callable[[bytes], bool] = lambda folder: False,
    ) -> None:
        self._state_dir = os.fsencode(state_dir)
        self._locks = locks
        self._in_adapter_folder = in_adapter_folder
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
        self._adapters: dict[bytes, bool] = {}

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
                    yield Skipped(*step[:3], why or reasons.other_name_stays(stays[1].path, stays[0]))
                elif step is not first:
                    yield Skipped(*step[:3], reasons.same_entry(first.path))
                else:
                    last = step is firsts[-1][1]
                    yield step._replace(bytes=sum(each.bytes for each in names) if last else 0)

    def _entry(self, path: bytes) -> object:
        """The entry that a name is, by whichever mount it is seen."""
        place = self._place(os.path.dirname(path))
        return (place.status.dev, place.status.ino, os.path.basename(path)) if place else path

    def _refusal(self, step: Step) -> str:
        whole = _folder(step)
        place, kept_at = self._place(os.path.dirname(whole or step.path)), self._place(os.path.dirname(step.kept))
        kept, why = self._kept_status(step.kept)
        with suppress(OSError):
            status = statx(step.path)
            if place is not None and kept_at is not None and kept is not None:
                why = next(filter(None, self._of_places(step, place, kept_at)), why)
                return why or next(filter(None, self._of_action(step, whole, place, status, kept)), "")
        # It went, or cannot be looked at.
        return ""

    def _of_places(self, step: Step, place: Place, kept_at: Place) -> Iterator[str]:
        yield "" if place.root else reasons.NOT_IN_ROOT
        # What another lorad may move away is not to be relied on.
        yield place.lock or kept_at.lock
        if place.status.dev != kept_at.status.dev:
            yield self.aliases.refusal(step.path, step.kept, by_itself=self._by_itself)

    def _of_action(self, step: Step, whole: bytes, place: Place, status: Status, kept: Status) -> Iterator[str]:
        if step.action == "reflink":
            number = self._abilities.share(place.path, place.status, place.kind)
            number = errno.EROFS if place.error == errno.EROFS else number
            yield reason(Call.SHARE, errno.EXDEV if kept.dev != status.dev else number)
        else:
            yield self._why_not_renamed(step, whole, place, status)
        yield reason(Call.LEASE, self._abilities.lease(step.path, status))
        if step.action == "hardlink":
            if _are_apart(place, kept) or self._another_project(step.kept, place.path):
                yield reason(Call.LINK, errno.EXDEV)
            if is_locked(step.kept, kept):
                yield reasons.of_kept(step.kept, reason(Call.LINK, errno.EPERM))
        if step.action in _LINKS:
            if step.kept not in self._kept_access:
                self._kept_access[step.kept] = _access(step.kept, kept)
            if _access(step.path, status) != self._kept_access[step.kept]:
                yield reasons.other_access(step.kept)
        if step.action == "quarantine":
            yield reason(Call.QUARANTINE, access_error(whole, os.W_OK) if whole else 0)
            yield self._why_not_moved(whole or step.path, place)

    def _why_not_renamed(self, step: Step, whole: bytes, place: Place, status: Status) -> str:
        """Each action but `reflink` gives the file, or its whole folder, another name."""
        path = whole or step.path
        if whole:
            status = statx(whole)
            if self._mounts.within(whole):
                return reasons.MOUNTED_INSIDE
        elif step.action in _AWAY and self._is_adapter(place.path):
            return reasons.ADAPTER_PART
        if place.error:
            return reason(Call.HIDE, place.error)
        if os.path.basename(path) in place.covered:
            return reason(Call.HIDE, errno.EBUSY)
        if is_locked(path, status) or _is_anothers(place.status, status):
            return reason(Call.HIDE, errno.EPERM)
        if step.action in _LINKS:
            return reason(Call.EXCHANGE, self._abilities.exchange(place.path, place.status, place.kind))
        if whole and place.mount and place.kind == b"overlay" and b"redirect_dir=on" not in place.mount.options:
            return reason(Call.HIDE, errno.EXDEV)
        return reason(Call.HIDE, self._abilities.rename_new(place.path, place.status, place.kind))

    def _why_not_moved(self, path: bytes, place: Place) -> str:
        key = *_where(place.status), place.root
        if key not in self._quarantines:
            self._quarantines[key] = self._quarantine(place)
        why, folder = self._quarantines[key]
        return why or (reason(Call.QUARANTINE, errno.EXDEV) if self._another_project(path, folder) else "")

    def _quarantine(self, place: Place) -> tuple[str, bytes]:
        """Why files of this place cannot be moved into quarantine, or the folder that they are moved into."""
        for top, name in ((self._state_dir, os.fsencode(IN_STATE)), (place.root, IN_ROOT)):
            around = self._place(os.path.realpath(top))
            path = os.path.join(top, name)
            with suppress(OSError):
                status = statx(path) if os.path.lexists(path) else None
                if around is not None and _where(status or around.status) == _where(place.status):
                    return _why_not_used(path, status, around), path if status else around.path
        return reason(Call.QUARANTINE, errno.EXDEV), b""

    def _place(self, folder: bytes) -> Place | None:
        if folder not in self._places:
            self._places[folder] = None
            with suppress(OSError):
                status = statx(folder)
                mount = self._mounts.mount(folder, status)
                error = access_error(folder, os.W_OK | os.X_OK)
                error = error or (errno.EPERM if is_locked(folder, status) else 0)
                root = next((root for root in self._roots if is_inside(folder, root)), b"")
                lock = self._locks.refusal(folder) if self._locks is not None and root else ""
                covered = self._mounts.covered(folder, mount)
                self._places[folder] = Place(folder, status, mount, error, covered, root, lock)
        return self._places[folder]

    def _kept_status(self, path: bytes) -> tuple[Status | None, str]:
        """A kept file, and why it cannot be held."""
        if path not in self._kept:
            self._kept[path] = None, ""
            with suppress(OSError):
                status = statx(path)
                why = reason(Call.LEASE, self._abilities.lease(path, status))
                self._kept[path] = status, reasons.of_kept(path, why) if why else ""
        return self._kept[path]

    def _is_adapter(self, folder: bytes) -> bool:
        if folder not in self._adapters:
            self._adapters[folder] = self._in_adapter_folder(folder)
        return self._adapters[folder]

    def _another_project(self, path: bytes, folder: bytes) -> bool:
        if folder not in self._projects:
            self._projects[folder] = project(folder)
        number, inherits = self._projects[folder]
        return inherits and project(path)[0] != number


def _folder(step: Step) -> bytes:
    """The adapter folder that goes as a whole; empty where the file goes alone."""
    folder: bytes = getattr(step, "folder", b"")
    return folder


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
    if status is None:
        return reasons.no_quarantine(path, around.error) if around.error else ""
    if not stat.S_ISDIR(status.mode):
        return reasons.no_quarantine(path, errno.ENOTDIR)
    if status.uid != os.geteuid() or status.mode & 0o022:
        return reasons.strange_quarantine(path)
    return ""


def _access(path: bytes, status: Status) -> tuple[object, ...]:
    """What one may do with a file: owner, group, mode, ACL and labels."""
    labels: list[tuple[str, bytes]] = []
    with suppress(OSError):
        for name in sorted(os.listxattr(path, follow_symlinks=False)):
            if name.startswith(_ACCESS):
                labels.append((name, os.getxattr(path, name, follow_symlinks=False)))
    return status.uid, status.gid, stat.S_IMODE(status.mode), labels
