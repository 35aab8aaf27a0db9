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
from lorad.control.pages import Row, paginate
from lorad.dedupe.catalogued import read_sets, read_sets_with
from lorad.dedupe.plan import Plan, Skipped, Step, make_plan, plan_for
from lorad.dedupe.policy import Policy
from lorad.dedupe.sharing import with_extents
from lorad.dedupe.volatile import with_volatile
from lorad.watch import calls

#: More keep rules than anybody means.
_RULES = 64


class BadPolicy(Exception):
    """A client asked for what cannot be done; the text says what can."""


class Planner:
    """Makes plans by the configuration that runs. `use` may be called from any thread, the rest from one."""

    def __init__(self) -> None:
        self._running = Policy(), False

    def use(self, config: Config) -> None:
        """Go by this configuration from now on."""
        self._running = policy_of(config), config.watch.follow_symlinks

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
        policy, follow = self._running
        sets = with_extents(with_volatile(read_sets_with(db, newcomers, follow=follow)))
        return plan_for(newcomers, sets, policy, time.time_ns())

    def plan(self, db: sqlite3.Connection, policy: Policy) -> Plan:
        """What a policy makes of the catalogue, now; files that share their blocks already are left alone."""
        _, follow = self._running
        return make_plan(with_extents(with_volatile(read_sets(db, follow=follow))), policy, time.time_ns())


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
            [PlannedStep(step.path, step.kept, step.level, step.action, step.bytes, step.why) for step in steps],
            [SkippedFile(*row) for row in rows if isinstance(row, Skipped)],
            sum(step.bytes for step in steps),
            following,
        )

    listed: list[Step | Skipped] = [*plan.steps, *plan.skipped]
    listed.sort(key=lambda row: (row.kept, row.path))
    rows = (Row((row.kept, row.path), len(row.kept) + len(row.path) + 120, row) for row in listed)
    return paginate(generation, rows, cursor, make)
