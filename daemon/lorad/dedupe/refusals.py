"""What of a plan would be refused when it is carried out, and why: looked at beforehand, in an action's own words.

What cannot be told is left to the action, which looks again in any case: a step that stays is no promise, and one
that is taken out would have failed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress

from loracore import causes
from loracore.causes import words
from loracore.paths import shown
from lorad.dedupe.action.registry import ACTIONS
from lorad.dedupe.aliases import Aliases
from lorad.dedupe.plan import Plan, Step
from lorad.dedupe.rootlock import RootLocks
from lorad.dedupe.sets import Skipped
from lorad.dedupe.surroundings import Place, Surroundings, where
from lorad.watch import timed_calls
from lorad.watch.mounts import is_locked, is_plain
from lorad.watch.statx import Status, access_error, owns_all, statx

MOUNTED_INSIDE = "something is mounted in its folder; unmount that first"
NOT_IN_ROOT = "it lies in no watched folder any more; see [watch] roots"


class Refusals:
    """For one thread; see `Surroundings`."""

    def __init__(self, state_dir: str, locks: RootLocks | None = None) -> None:
        self.seen = Surroundings(state_dir, locks)
        self.aliases = Aliases(self.seen.mounts)
        self._by_itself = False

    def close(self) -> None:
        self.seen.mounts.close()

    def sifted(self, plan: Plan, roots: Sequence[bytes], *, by_itself: bool = False) -> Plan:
        """The plan with the steps that would be refused among what is skipped, each with the reason.

        A file goes with all its names or not at all. `by_itself`: see `Aliases.refusal`.
        """
        if plan.action == "report":
            return plan
        self.seen.begin(roots)
        self._by_itself = by_itself
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
        place = self.seen.place(os.path.dirname(path))
        return (place.status.dev, place.status.ino, os.path.basename(path)) if place else path

    def _refusal(self, step: Step) -> str:
        if timed_calls.hangs(step.path) or timed_calls.hangs(step.kept):
            return causes.NO_ANSWER
        place, kept_at = map(self.seen.place, map(os.path.dirname, (step.folder or step.path, step.kept)))
        if place is None or kept_at is None:
            # It went, or cannot be looked at.
            return causes.NO_ANSWER if timed_calls.hangs(step.path) or timed_calls.hangs(step.kept) else ""
        kept, why = self.seen.kept(step.kept)
        with suppress(OSError):
            status = statx(step.path)
            if kept is not None:
                why = next(filter(None, self._of_places(step, place, kept_at)), why)
                return why or next(filter(None, self._of_action(step, place, status, kept)), "")
        return ""

    def _of_places(self, step: Step, place: Place, kept_at: Place) -> Iterator[str]:
        yield NOT_IN_ROOT if self.seen.roots and not place.root else ""
        # What another lorad may move away is not to be relied on.
        yield place.lock or kept_at.lock
        if place.status.dev != kept_at.status.dev:
            yield self.aliases.refusal(step.path, step.kept, by_itself=self._by_itself)

    def _of_action(self, step: Step, place: Place, status: Status, kept: Status) -> Iterator[str]:
        """In the order in which the action would meet them."""
        whole, action = step.folder, ACTIONS[step.action]
        path = whole or step.path
        yield words(causes.LEASE, self.seen.abilities.lease(step.path, status))
        if action.needs_exchange and self.seen.has_other_access(step.path, status, step.kept, kept):
            yield causes.OTHER_ACCESS
        if not action.hides:
            yield words(
                causes.SHARE,
                errno.EXDEV
                if kept.dev != status.dev
                else self.seen.abilities.share(place.path, place.status, place.kind),
            )
            yield words("", errno.EROFS if place.error == errno.EROFS else errno.EPERM * status.is_immutable)
            return
        if action.needs_equal_bytes:
            yield words(causes.LINK, self._link_error(step, place, kept))
        if action.quarantines:
            yield self._why_not_moved(path, place)
        if whole:
            yield MOUNTED_INSIDE if self.seen.mounts.within(path) else ""
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
            return self.seen.abilities.exchange(place.path, place.status, place.kind)
        if not step.folder:
            return self.seen.abilities.rename_new(place.path, place.status, place.kind)
        if action.quarantines and (number := access_error(path, os.W_OK)):
            return number
        if place.mount and place.kind == b"overlay" and b"redirect_dir=on" not in place.mount.options:
            return errno.EXDEV
        return self.seen.abilities.rename_folder(place.path, place.status, place.kind)

    def _link_error(self, step: Step, place: Place, kept: Status) -> int:
        if place.error != errno.EROFS and (
            _are_apart(place, kept) or self.seen.another_project(step.kept, place.path)
        ):
            return errno.EXDEV
        return errno.EPERM if not place.error and is_locked(step.kept, kept) else 0

    def _why_not_moved(self, path: bytes, place: Place) -> str:
        why, folder = self.seen.quarantine(place)
        return why or words(causes.QUARANTINE, errno.EXDEV * self.seen.another_project(path, folder))


def _are_apart(place: Place, kept: Status) -> bool:
    """Whether no hard link leads from a folder to a file. An overlay has more devices than one."""
    if kept.mount and place.status.mount and not is_plain(place.mount):
        return kept.mount != place.status.mount
    return where(kept) != where(place.status)


def _is_anothers(folder: Status, status: Status) -> bool:
    """Whether a sticky folder keeps this process from renaming a file of another user."""
    mine = os.geteuid() in (folder.uid, status.uid)
    return bool(folder.mode & stat.S_ISVTX) and not mine and not owns_all()
