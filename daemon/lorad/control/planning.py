"""Plans of de-duplication on request: the running policy with what a client puts in its place, page by page."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Sequence

import msgspec

from loracore import toml
from loracore.config import Config, Dedupe, dedupe_conflicts
from loracore.control import Planned, PlannedStep, SkippedFile
from lorad.catalog.views import Copies, Name, names_in_sets, names_in_sets_with, names_under, sets_of
from lorad.control.pages import Row, paginate
from lorad.dedupe import trouble
from lorad.dedupe.adapters import adapter_folders, look_at_folders
from lorad.dedupe.plan import Plan, Step, make_plan, plan_for
from lorad.dedupe.policy import AWAY, Policy
from lorad.dedupe.refusals import Refusals
from lorad.dedupe.rootlock import RootLocks
from lorad.dedupe.sets import Skipped
from lorad.dedupe.sharing import with_extents
from lorad.dedupe.wholes import Folders
from lorad.library.keepers import Copy
from lorad.watch import calls
from lorad.watch.storage import look

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
            self._made.locks = locks

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
        folders = adapter_folders(newcomers) if policy.action in AWAY else ()
        sets, mute = self._sets(names_in_sets_with(db, [*newcomers, *names_under(db, folders)]))
        plan = plan_for(newcomers, sets, policy, time.time_ns(), self._folders(sets, policy))
        mute = [row for row in mute if row.path in newcomers]
        return self._refusals.sifted(_with(plan, mute), self._roots, by_itself=True)

    def plan(self, db: sqlite3.Connection, policy: Policy) -> Plan:
        """What a policy makes of the catalogue now; what would be refused, or shares its blocks, is left alone."""
        sets, mute = self._sets(names_in_sets(db))
        plan = make_plan(sets, policy, time.time_ns(), self._folders(sets, policy))
        return self._refusals.sifted(_with(plan, mute), self._roots)

    def _folders(self, sets: Sequence[Sequence[Copy]], policy: Policy) -> Folders:
        return look_at_folders(sets, self._roots) if policy.action in AWAY else Folders()

    def _sets(self, names: Sequence[Name]) -> tuple[list[list[Copy]], list[Skipped]]:
        """The sets among these names, as they lie on the disks now, and names on disks that do not answer."""
        _, follow = self._running
        points = {name.path: calls.mount_of(name.path) for name in names}
        silent = {point for point in set(points.values()) if point is not None and not calls.answers(point)}
        mute = [Skipped(name.path, b"", "", trouble.NO_ANSWER) for name in names if points[name.path] in silent]
        names = [name for name in names if points[name.path] not in silent]
        on_device = {name.dev % 2**64: name.path for name in names}
        storage = look({device: os.path.dirname(path) for device, path in on_device.items()})
        copies = Copies(storage, follow=follow)
        sets = with_extents([copies.set_of(files) for files in sets_of(names)])
        return sets, mute


def _with(plan: Plan, skipped: Sequence[Skipped]) -> Plan:
    return plan._replace(skipped=sorted([*plan.skipped, *skipped], key=lambda row: (row.kept, row.path)))


def policy_of(config: Config) -> Policy:
    """The policy of a configuration, with its folders as the daemon names what is in them."""
    return Policy.of(config.dedupe, resolved)


def resolved(folder: str) -> bytes:
    """A folder as in the catalogue's paths, which have no symbolic link above the root."""
    return calls.real(os.fsencode(folder))


def planned_pages(plan: Plan, generation: int, complete: bool, cursor: str) -> dict[str, msgspec.Raw]:
    """A plan as encoded pages, those behind `cursor`."""

    def make(rows: list[Step | Skipped], following: str) -> Planned:
        steps = [row for row in rows if isinstance(row, Step)]
        return Planned(
            generation,
            complete,
            plan.action,
            [
                PlannedStep(step.folder or step.path, step.kept, step.level, step.action, step.bytes, step.why)
                for step in steps
            ],
            [SkippedFile(*row) for row in rows if isinstance(row, Skipped)],
            sum(step.bytes for step in steps),
            following,
        )

    listed: list[Step | Skipped] = [*plan.steps, *plan.skipped]
    listed.sort(key=lambda row: (row.kept, row.path))
    rows = (Row((row.kept, row.path), len(row.kept) + len(row.path) + 120, row) for row in listed)
    return paginate(generation, rows, cursor, make)
