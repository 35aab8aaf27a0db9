"""Which of several files of the same weights is kept, and why not the others.

The rules of the policy narrow the choice down, in their order; what they leave open, the path decides. Between
them stands one rule of our own: a file that stays anyway, since it is out of scope, is kept before one that
could go, so that one copy less remains. Only `path-prefix` rules at the front of the list come before it. No rule
keeps a file that lies in memory in favour of one on a disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from loracore.paths import shown
from lorad.dedupe.policy import Policy, Rule, is_inside

#: Headers whose lengths differ by less than this say as much: a longer title or date does not make one richer, and
#: what a stripped header lacks is kilobytes.
_AS_RICH = 256


class Copy(NamedTuple):
    """An inode that is in a set, as the catalogue has it.

    `paths`: its names, sorted; `links`: names that lead to it through a symbolic link. `residue` stands for all
    bytes outside layers; None where it is not read yet. `metadata`: bytes of its header beyond what its
    layers need. `extents`: where its blocks lie, where that is known (see `lorad.blocks`). `volatile`: it lies in
    memory, and is lost with the power.
    """

    paths: tuple[bytes, ...]
    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    residue: bytes | None
    metadata: int = 0
    links: tuple[bytes, ...] = ()
    extents: bytes | None = None
    volatile: bool = False


class Choice(NamedTuple):
    """The kept file, the name that it is known by, and for each other one (by place) why it is not kept."""

    kept: Copy
    path: bytes
    reasons: dict[int, str]


def choose(copies: Sequence[Copy], policy: Policy) -> Choice:
    """Which of these is kept. The order in which they come makes no difference."""
    left = list(range(len(copies)))
    reasons: dict[int, str] = {}
    for rule in _rules(policy):
        values = {place: _value(rule, copies[place], policy) for place in left}
        best = min(values.values())
        if rule.kind == "most-metadata":
            best += _AS_RICH - 1
        kept = [place for place in left if values[place] <= best]
        if len(kept) < len(left):
            reason = _reason(rule)
            reasons.update((place, reason) for place in left if place not in kept)
            left = kept
        if len(left) == 1:
            break
    kept_copy = copies[left[0]]
    return Choice(kept_copy, name_of(kept_copy, policy), reasons)


def name_of(copy: Copy, policy: Policy) -> bytes:
    """The one of its names that the rules like best."""
    kinds = [rule for rule in policy.keep if rule.kind in ("path-prefix", "shortest-path")]
    return min(copy.paths, key=lambda path: (*(_of_path(rule, path) for rule in kinds), path))


def may_go(copy: Copy, policy: Policy) -> bool:
    """Whether all names of a file may be changed; only then its bytes can be freed."""
    return not copy.links and all(map(policy.covers, copy.paths))


_LASTS, _STAYS, _FIRST = Rule("lasts"), Rule("stays"), Rule("path")


def _rules(policy: Policy) -> Iterator[Rule]:
    front = next((n for n, rule in enumerate(policy.keep) if rule.kind != "path-prefix"), len(policy.keep))
    yield _LASTS
    yield from policy.keep[:front]
    yield _STAYS
    yield from policy.keep[front:]
    yield _FIRST


def _value(rule: Rule, copy: Copy, policy: Policy) -> Any:
    """What a rule goes by; the least is kept."""
    match rule.kind:
        case "lasts":
            return copy.volatile
        case "stays":
            return may_go(copy, policy)
        case "most-metadata":
            return -copy.metadata
        case "oldest":
            return copy.mtime_ns
        case "newest":
            return -copy.mtime_ns
    return min(_of_path(rule, path) for path in copy.paths)


def _of_path(rule: Rule, path: bytes) -> Any:
    match rule.kind:
        case "path-prefix":
            return not is_inside(path, rule.folder)
        case "shortest-path":
            return len(path)
    return path


def _reason(rule: Rule) -> str:
    """Why the kept one is kept, seen from one that is not: `the kept one …`."""
    match rule.kind:
        case "path-prefix":
            return f"lies in {shown(rule.folder)}"
        case "lasts":
            return "lies on a disk, not in memory"
        case "stays":
            return "may not be changed"
        case "most-metadata":
            return "has more metadata"
        case "oldest":
            return "is older"
        case "newest":
            return "is newer"
        case "shortest-path":
            return "has a shorter path"
    return "comes first by name"
