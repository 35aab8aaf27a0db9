"""What becomes of one set of duplicates: which file is kept for which others, and what is left alone. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from loracore.paths import shown
from lorad.blocks.usage import Room
from lorad.dedupe.policy import Policy
from lorad.library.keepers import Choice, Copy, choose, level_of, may_go

#: What a reason ends with where the file, or the one that is kept for it, has to be looked at again later.
YOUNG = "younger than min_age"
UNREAD = "not read to its end yet"
KEPT_WAITS = "the kept one is "
SAME_INODE = "same inode already"
SHARED = "shares its blocks already"
OUT_OF_SCOPE = "not in scope"
READ_ONLY = "on a read-only file system"
SYMLINKED = "seen through a symbolic link"
ELSEWHERE = "on another file system"
OTHER_HEADER = "its header says another function"
OTHER_CONFIG = "its adapter_config.json says another function"


class Skipped(NamedTuple):
    """A name that is left alone, and why. `kept` is what it is the same as; empty where nothing is kept."""

    path: bytes
    kept: bytes
    level: str
    reason: str


class Going(NamedTuple):
    """A file that goes, for which one and why."""

    copy: Copy
    choice: Choice
    level: str
    why: str

    def stays(self, reason: str) -> Iterator[Skipped]:
        return _skip(self.copy, self.choice.path, self.level, reason)


class Judged(NamedTuple):
    """What becomes of one set."""

    copies: Sequence[Copy]
    going: list[Going]
    skipped: list[Skipped]

    def keep_back(self, why: Callable[[Going], str]) -> bool:
        """Leave alone what there is a reason for; whether there was any."""
        goes = []
        for each in self.going:
            reason = why(each)
            if reason:
                self.skipped.extend(each.stays(reason))
            else:
                goes.append(each)
        kept_back = len(goes) < len(self.going)
        self.going[:] = goes
        return kept_back


def judge(copies: Sequence[Copy], policy: Policy, now_ns: int) -> Judged:
    made = Judged(copies, [], [])
    named = [copy for copy in copies if copy.paths]
    main = choose(named, policy) if named else None
    for copy in copies:
        if not copy.paths:
            level = level_of(copy, main.kept) if main else "tensors"
            made.skipped.extend(_skip(copy, main.path if main else b"", level, SYMLINKED))
    if main is None:
        return made
    alone = len(copies) == 1
    waiting = {copy.paths: _why_wait(copy, policy, now_ns, alone=alone) for copy in named}
    # What the header says is what the rules go by.
    all_wait = waiting[main.kept.paths] or (UNREAD if any(copy.function == b"" for copy in copies) else "")
    for copy in named:
        reason = waiting[copy.paths] or (all_wait and KEPT_WAITS + all_wait)
        if reason and copy is not main.kept:
            made.skipped.extend(_skip(copy, main.path, level_of(copy, main.kept), reason))
    if not all_wait:
        for part in _parts([copy for copy in named if not waiting[copy.paths]], policy):
            _judge_part(part, main, policy, made)
    return made


def _why_wait(copy: Copy, policy: Policy, now_ns: int, *, alone: bool) -> str:
    """Why a file does not go for now; empty where that is no reason."""
    if not alone and (copy.residue is None or copy.function == b""):
        return UNREAD
    return YOUNG if is_young(copy, policy, now_ns) else ""


def is_young(copy: Copy, policy: Policy, now_ns: int) -> bool:
    return bool(policy.min_age_ns) and now_ns - copy.ctime_ns < policy.min_age_ns


def _skip(copy: Copy, kept: bytes, level: str, reason: str) -> Iterator[Skipped]:
    for path in (*copy.paths, *copy.links):
        yield Skipped(path, kept, level, reason)


def _parts(copies: Sequence[Copy], policy: Policy) -> Iterable[list[Copy]]:
    """The parts of a set of which one file each is kept."""
    parts: dict[object, list[Copy]] = defaultdict(list)
    for copy in copies:
        function: object = copy.function
        if not policy.kind.links:
            # What has several functions by its names is one of a kind.
            function = copy.functions if len(copy.functions) == 1 else copy.paths
        if policy.kind.needs_equal_bytes:
            parts[function, copy.residue, copy.size, copy.dev].append(copy)
        elif "tensors" not in policy.levels:
            parts[function, copy.residue, copy.size].append(copy)
        else:
            parts[function].append(copy)
    return parts.values()


def _judge_part(part: Sequence[Copy], main: Choice, policy: Policy, made: Judged) -> None:
    """What of a part goes and what stays."""
    # Of the part that the first choice is in, the rules might choose another one if it stood alone.
    choice = main if any(copy is main.kept for copy in part) else choose(part, policy)
    for path in (*choice.kept.paths, *choice.kept.links):
        if path != choice.path:
            made.skipped.append(Skipped(path, choice.path, "inode", SAME_INODE))
    for copy in part:
        if copy is choice.kept:
            continue
        level = level_of(copy, choice.kept)
        going = Going(copy, choice, level, choice.reasons[copy.paths])
        reason = _why_not(going, policy)
        if reason:
            made.skipped.extend(going.stays(reason))
        else:
            made.going.append(going)
    if choice is not main:
        level = level_of(choice.kept, main.kept)
        made.skipped.extend(_skip(choice.kept, main.path, level, _apart(choice.kept, main.kept, level, policy)))


def _why_not(going: Going, policy: Policy) -> str:
    """Why a file that could go for the kept one does not; empty where it does."""
    copy = going.copy
    if going.level not in policy.levels:
        return f"level {going.level} is not in levels"
    if copy.links:
        return SYMLINKED
    if not may_go(copy, policy):
        return _named(OUT_OF_SCOPE, [path for path in copy.paths if not policy.covers(path)], copy)
    if copy.read_only and policy.action != "report":
        return _named(READ_ONLY, [path for path, _ in copy.read_only], copy)
    return SHARED if _shares_all(copy, going.choice.kept) else ""


def _named(reason: str, names: Sequence[bytes], copy: Copy) -> str:
    """A reason that holds for these names of a file."""
    return reason if len(names) == len(copy.paths) else f"{reason}: its name {shown(names[0])}"


def _shares_all(copy: Copy, kept: Copy) -> bool:
    room = Room()
    room.add(kept.size, kept.extents)
    return not room.add(copy.size, copy.extents)


def _apart(copy: Copy, main: Copy, level: str, policy: Policy) -> str:
    """Why a set keeps another file beside the first."""
    if copy.function != main.function:
        return OTHER_HEADER
    if not policy.kind.links and (copy.functions != main.functions or len(copy.functions) > 1):
        return OTHER_CONFIG
    if level == "tensors":
        in_levels = "tensors" in policy.levels
        return (
            f"level tensors: {policy.action} is for level file only"
            if policy.kind.needs_equal_bytes and in_levels
            else "level tensors is not in levels"
        )
    return ELSEWHERE
