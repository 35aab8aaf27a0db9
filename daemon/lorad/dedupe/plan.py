"""What a policy makes of sets of duplicates: who goes, who is kept for it, and what is left alone and why.

Pure: it sees files as the catalogue has them and touches none. Whoever carries a plan out looks at each file
again before it does anything.

- An inode with several names is one file. It goes with all its names or not at all, a step for each; its bytes
  count once, with the last of them, for only then they are free. A reflink works on the inode: one step.
- A file that was changed less than `min_age` ago, or is not read to its end yet, neither goes nor is kept.
- `reflink` and `hardlink` join what is equal byte for byte on one file system. A set may then keep a file for
  each of its byte contents and file systems; every other action keeps one of the whole set.
- Files whose blocks are shared already are left alone, whatever the action: nothing would be freed. What others
  share with files that stay is not counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from loracore.paths import shown
from lorad.blocks.room import Room
from lorad.dedupe.keeping import Choice, Copy, choose, may_go
from lorad.dedupe.policy import LINKING, Policy

YOUNG = "younger than min_age"
UNREAD = "not read to its end yet"
SAME_INODE = "same inode already"
SHARED = "shares its blocks already"
OUT_OF_SCOPE = "not in scope"
SYMLINKED = "seen through a symbolic link"
ELSEWHERE = "on another file system"


class Step(NamedTuple):
    """One name to be acted on. `why` completes the sentence: the kept one ….

    `bytes` is what it takes out of the library: for `quarantine`, the disk has it back only when that is emptied.
    """

    path: bytes
    kept: bytes
    level: str
    action: str
    bytes: int
    why: str
    gone: Copy
    keeper: Copy


class Skipped(NamedTuple):
    """A name that is left alone, and why. `kept` is what it is the same as; empty where nothing is kept."""

    path: bytes
    kept: bytes
    level: str
    reason: str


class Plan(NamedTuple):
    """Steps and what is skipped, both sorted by the kept file and the path.

    `due_ns`: when the next file comes of the age at which it may be acted on; None where none is too young.
    """

    action: str
    steps: list[Step]
    skipped: list[Skipped]
    bytes: int
    due_ns: int | None


def make_plan(sets: Iterable[Sequence[Copy]], policy: Policy, now_ns: int) -> Plan:
    """What the policy makes of all these sets. Their order, and that of the files in them, makes no difference."""
    return _plan(sets, policy, now_ns, None)


def plan_for(newcomers: Collection[bytes], sets: Iterable[Sequence[Copy]], policy: Policy, now_ns: int) -> Plan:
    """The same, but only the steps that a newcomer (by any of its names) has a part in.

    The keep rules decide as ever: the newcomer goes, or it is kept and the others go. What was there before is
    not acted on for the sake of what was there before.
    """
    return _plan(sets, policy, now_ns, frozenset(newcomers))


def _plan(sets: Iterable[Sequence[Copy]], policy: Policy, now_ns: int, newcomers: frozenset[bytes] | None) -> Plan:
    steps: list[Step] = []
    skipped: list[Skipped] = []
    due: list[int] = []
    for copies in sets:
        due += (copy.ctime_ns + policy.min_age_ns for copy in copies if _is_young(copy, policy, now_ns))
        for row in _rows(copies, policy, now_ns):
            if isinstance(row, Skipped):
                skipped.append(row)
            elif newcomers is None or _takes_part(row, newcomers):
                steps.append(row)
    steps.sort(key=_place)
    skipped.sort(key=_place)
    return Plan(policy.action, steps, skipped, sum(step.bytes for step in steps), min(due, default=None))


def _place(row: Step | Skipped) -> tuple[bytes, bytes]:
    return row.kept, row.path


class _Going(NamedTuple):
    """A file that goes, for whom and why."""

    copy: Copy
    choice: Choice
    level: str
    why: str


def _rows(copies: Sequence[Copy], policy: Policy, now_ns: int) -> Iterator[Step | Skipped]:
    """What becomes of one set."""
    waiting = [(copy, _why_wait(copy, policy, now_ns, alone=len(copies) == 1)) for copy in copies]
    ready = [copy for copy, reason in waiting if not reason]
    main = choose(ready, policy) if ready else None
    for copy, reason in waiting:
        if reason:
            level = level_of(copy, main.kept) if main else "tensors"
            yield from _skip(copy, main.path if main else b"", level, reason)
    if main is None:
        return
    going: list[_Going] = []
    for part in _parts(ready, policy):
        choice = choose(part, policy) if len(part) < len(ready) else main
        yield from _part_rows(part, choice, policy, going)
        if choice.kept is not main.kept:
            level = level_of(choice.kept, main.kept)
            yield from _skip(choice.kept, main.path, level, _apart(level, policy))
    yield from _steps(going, copies, policy)


def _steps(going: list[_Going], copies: Sequence[Copy], policy: Policy) -> Iterator[Step]:
    """A step for each name of what goes, of all these copies."""
    gone = {(each.copy.dev, each.copy.ino) for each in going}
    room = Room()
    for copy in copies:
        if (copy.dev, copy.ino) not in gone:
            room.add(copy.size, copy.extents)
    for copy, choice, level, why in sorted(going, key=lambda each: each.copy.paths):
        own = room.add(copy.size, copy.extents)
        names = copy.paths[:1] if policy.action == "reflink" else copy.paths
        for path in names:
            freed = own if path == names[-1] else 0
            yield Step(path, choice.path, level, policy.action, freed, why, copy, choice.kept)


def _why_wait(copy: Copy, policy: Policy, now_ns: int, *, alone: bool) -> str:
    """Why a file is left out of account for now; empty where it is not."""
    if not copy.paths:
        return SYMLINKED
    if copy.residue is None and not alone:
        return UNREAD
    return YOUNG if _is_young(copy, policy, now_ns) else ""


def _is_young(copy: Copy, policy: Policy, now_ns: int) -> bool:
    return bool(policy.min_age_ns) and now_ns - copy.ctime_ns < policy.min_age_ns


def _skip(copy: Copy, kept: bytes, level: str, reason: str) -> Iterator[Skipped]:
    for path in (*copy.paths, *copy.links):
        yield Skipped(path, kept, level, reason)


def _parts(copies: Sequence[Copy], policy: Policy) -> Iterator[list[Copy]]:
    """The parts of a set of which one file each is kept."""
    by_content: dict[object, list[Copy]] = defaultdict(list)
    for copy in copies:
        if policy.action in LINKING:
            by_content[copy.residue, copy.size, copy.dev].append(copy)
        elif "tensors" not in policy.levels:
            by_content[copy.residue, copy.size].append(copy)
        else:
            by_content[None].append(copy)
    yield from by_content.values()


def _part_rows(part: Sequence[Copy], choice: Choice, policy: Policy, going: list[_Going]) -> Iterator[Skipped]:
    """What stays of a part; what does not is added to `going`."""
    for path in (*choice.kept.paths, *choice.kept.links):
        if path != choice.path:
            yield Skipped(path, choice.path, "inode", SAME_INODE)
    for place, copy in enumerate(part):
        if copy is choice.kept:
            continue
        level = level_of(copy, choice.kept)
        reason = _why_not(copy, choice, level, policy)
        if reason:
            yield from _skip(copy, choice.path, level, reason)
        else:
            going.append(_Going(copy, choice, level, choice.reasons[place]))


def _why_not(copy: Copy, choice: Choice, level: str, policy: Policy) -> str:
    """Why a file that could go for the kept one does not; empty where it does."""
    if level not in policy.levels:
        return f"level {level} is not in levels"
    if copy.links:
        return SYMLINKED
    if not may_go(copy, policy):
        outside = [path for path in copy.paths if not policy.covers(path)]
        return OUT_OF_SCOPE if len(outside) == len(copy.paths) else f"{OUT_OF_SCOPE}: its name {shown(outside[0])}"
    return SHARED if _shares_all(copy, choice.kept) else ""


def _shares_all(copy: Copy, kept: Copy) -> bool:
    room = Room()
    room.add(kept.size, kept.extents)
    return not room.add(copy.size, copy.extents)


def _apart(level: str, policy: Policy) -> str:
    """Why a set keeps another file beside the first."""
    if level == "tensors":
        in_levels = "tensors" in policy.levels
        return (
            f"level tensors: {policy.action} is for level file only"
            if policy.action in LINKING and in_levels
            else "level tensors is not in levels"
        )
    return ELSEWHERE


def _takes_part(step: Step, newcomers: frozenset[bytes]) -> bool:
    return not newcomers.isdisjoint(step.gone.paths) or not newcomers.isdisjoint(step.keeper.paths)


def level_of(copy: Copy, kept: Copy) -> str:
    """How a file is the same as the kept one of its set."""
    if copy.residue is not None and (copy.residue, copy.size) == (kept.residue, kept.size):
        return "file"
    return "tensors"
