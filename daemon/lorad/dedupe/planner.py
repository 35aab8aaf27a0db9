"""Plans of de-duplication on request: the running policy with what a client puts in its place, page by page.

Before a plan is made, the disk is asked for what the catalogue does not have: which files share their blocks
already, so that the plan neither counts them nor touches them again, and which of the adapter folders that its
files are part of can go as a whole.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

import msgspec

from loracore import causes, toml
from loracore.adapter.folder import is_one_of_several, may_be_part, weight_parts
from loracore.causes import reason
from loracore.config import Config, Dedupe, dedupe_conflicts
from loracore.paths import shown
from lorad.blocks.extents import FileSystems, Place, look
from lorad.catalog.duplicates import Copies, names_in_sets, names_in_sets_with, sets_of
from lorad.catalog.views import Name, names_under
from lorad.dedupe.abilities import opened
from lorad.dedupe.action.folders import same_folders
from lorad.dedupe.plan import Folders, Plan, make_plan
from lorad.dedupe.policy import Policy
from lorad.dedupe.refusals import Refusals
from lorad.dedupe.rootlock import RootLocks
from lorad.dedupe.sets import Skipped
from lorad.library.keepers import Copy
from lorad.watch import storage, timed_calls

#: Larger files are compared when the folder goes, not for a plan. The weights are known to be equal.
_MOST = 1 << 20


def look_at_folders(sets: Iterable[Sequence[Copy]], roots: Collection[bytes]) -> Folders:
    """The adapter folders that files of these sets are part of. A root is none that could go."""

    def difference(folder: bytes, kept: bytes) -> str:
        return "it is a watched folder itself" if folder in roots else _difference(folder, kept)

    return Folders(adapter_folders(path for copies in sets for copy in copies for path in copy.paths), difference)


def adapter_folders(paths: Iterable[bytes]) -> dict[bytes, frozenset[bytes]]:
    """The adapter folders that these files are part of, with the weight files of each."""
    split = (path.rpartition(b"/") for path in paths)
    found = {folder for folder, _, name in split if may_be_part(name)}
    return {folder: parts for folder in sorted(found) if (parts := _parts(folder))}


def _parts(folder: bytes) -> frozenset[bytes]:
    """The weight files of an adapter folder, or what is there of one that is not complete."""
    try:
        names = os.listdir(folder)
    except OSError:
        return frozenset()
    parts = weight_parts(names) or filter(is_one_of_several, names)
    return frozenset(os.path.join(folder, name) for name in parts)


def _difference(folder: bytes, kept: bytes) -> str:
    try:
        with opened(kept) as one, opened(folder) as other:
            return same_folders(one, other, most=_MOST)
    except OSError as error:
        return f"{shown(error.filename)} cannot be read: {reason(error)}"


def with_extents(sets: Sequence[Sequence[Copy]]) -> list[list[Copy]]:
    """The same sets, with `Copy.extents` where several files lie on one file system that shares blocks.

    It opens those files; what cannot be opened, or is another file now, stays without.
    """
    file_systems = FileSystems()
    return [_looked_up(copies, file_systems) for copies in sets]


def _looked_up(copies: Sequence[Copy], file_systems: FileSystems) -> list[Copy]:
    places = [_place(copy, file_systems) for copy in copies]
    on_file_system = Counter(place.file_system for place in places if place is not None)
    found: list[Copy] = []
    for copy, place in zip(copies, places, strict=True):
        extents = None
        if place is not None and on_file_system[place.file_system] > 1:
            with suppress(OSError):
                extents = look(place)
        found.append(copy._replace(extents=extents))
    return found


def _place(copy: Copy, file_systems: FileSystems) -> Place | None:
    with suppress(OSError):
        return file_systems.place(copy.paths, copy.dev, copy.ino, copy.size)
    return None


#: More keep rules than anybody means.
_RULES = 64


class BadPolicy(Exception):
    """A client asked for what cannot be done; the text says what can."""


class Planner:
    """Makes plans by the configuration that runs. `use` may be called from any thread, the rest from one."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._made: Refusals | None = None
        self._locks: RootLocks | None = None
        self._running = Policy(), False
        self._roots: tuple[bytes, ...] = ()

    def use(self, config: Config) -> None:
        """Go by this configuration from now on."""
        self._running = policy_of(config), config.watch.follow_symlinks
        self._roots = tuple(map(resolved, config.watch.roots))

    def lock_by(self, locks: RootLocks) -> None:
        """Refuse what lies where another lorad acts. From any thread."""
        self._locks = locks
        if self._made is not None:
            self._made.seen.locks = locks

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    @property
    def _refusals(self) -> Refusals:
        """Made when it is first asked: it watches what is mounted."""
        if self._made is None:
            self._made = Refusals(self._state_dir, self._locks)
        return self._made

    @property
    def running(self) -> Policy:
        """The policy of the configuration."""
        return self._running[0]

    def policy(self, action: str, keep: Sequence[bytes], levels: Sequence[str]) -> Policy:
        """The running policy with what is given in the place of its own. Raises BadPolicy."""
        if len(keep) > _RULES:
            raise BadPolicy(f"keep: {len(keep)} rules; give at most {_RULES}")
        given = {"action": action, "keep": list(map(os.fsdecode, keep)), "levels": list(levels)}
        settings, problems = toml.structure({key: value for key, value in given.items() if value}, Dedupe)
        wanted, (running, _) = Policy.of(settings, resolved), self._running
        policy = msgspec.structs.replace(
            running,
            action=wanted.action if action else running.action,
            keep=wanted.keep if keep else running.keep,
            levels=wanted.levels if levels else running.levels,
        )
        problems += dedupe_conflicts(Dedupe(action=policy.action, levels=policy.levels))
        if problems:
            raise BadPolicy(problems[0])
        return policy

    def plan_for(self, db: sqlite3.Connection, newcomers: Collection[bytes]) -> Plan:
        """What the running policy makes of newcomers, by any of their names."""
        policy = self.running
        folders = adapter_folders(newcomers) if policy.kind.goes_away else ()
        sets, mute = self._sets(names_in_sets_with(db, [*newcomers, *names_under(db, folders)]))
        plan = make_plan(sets, policy, time.time_ns(), self._folders(sets, policy), newcomers)
        mute = [row for row in mute if row.path in newcomers]
        return self._refusals.sifted(_with(plan, mute), self._roots, by_itself=True)

    def plan(self, db: sqlite3.Connection, policy: Policy) -> Plan:
        """What a policy makes of the catalogue now; what would be refused, or shares its blocks, is left alone."""
        sets, mute = self._sets(names_in_sets(db))
        plan = make_plan(sets, policy, time.time_ns(), self._folders(sets, policy))
        return self._refusals.sifted(_with(plan, mute), self._roots)

    def _folders(self, sets: Sequence[Sequence[Copy]], policy: Policy) -> Folders:
        return look_at_folders(sets, self._roots) if policy.kind.goes_away else Folders()

    def _sets(self, names: Sequence[Name]) -> tuple[list[list[Copy]], list[Skipped]]:
        """The sets among these names, as they lie on the disks now, and names on disks that do not answer."""
        _, follow = self._running
        points = {name.path: timed_calls.mount_of(name.path) for name in names}
        silent = {point for point in set(points.values()) if point is not None and not timed_calls.answers(point)}
        mute = [Skipped(name.path, b"", "", causes.NO_ANSWER) for name in names if points[name.path] in silent]
        names = [name for name in names if points[name.path] not in silent]
        on_device = {name.identity.dev: name.path for name in names}
        stored = storage.look({device: os.path.dirname(path) for device, path in on_device.items()})
        copies = Copies(stored, follow=follow)
        sets = with_extents([copies.set_of(files) for files in sets_of(names)])
        return sets, mute


def _with(plan: Plan, skipped: Sequence[Skipped]) -> Plan:
    return plan._replace(skipped=sorted([*plan.skipped, *skipped], key=lambda row: (row.kept, row.path)))


def policy_of(config: Config) -> Policy:
    """The policy of a configuration, with its folders as the daemon names what is in them."""
    return Policy.of(config.dedupe, resolved)


def resolved(folder: str) -> bytes:
    """A folder as in the catalogue's paths, which have no symbolic link above the root."""
    return timed_calls.real(os.fsencode(folder))
