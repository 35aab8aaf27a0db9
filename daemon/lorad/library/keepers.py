"""Which file of a set of the same weights is kept. Pure: the JSON files, plans and actions all ask here.

The rules narrow the choice down in their order; what they leave open, the path decides. Before them stands whether
a file may be kept at all. Between them stands one rule of our own: a file that stays anyway, since it is out of
scope, is kept before one that could go, so that one copy less remains. Only `path-prefix` rules at the front of
the list come before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from loracore.config import Dedupe
from loracore.identity import Identity
from loracore.paths import shown
from loracore.policy import PATH_PREFIX

#: Metadata whose lengths differ by less than this say as much: a longer title or date does not make a file richer,
#: and what a stripped header lacks is kilobytes.
_AS_RICH = 256
#: How the stem of a marked name ends, and how the folder of one is called (SPEC section 5).
MARK = (
    rb"(?:-\d{6}|-step\d{8}|[-_ ]?(?:epoch|step)[-_]?\d+| \(\d+\)|(?: -)? [Cc]opy(?: \(?\d+\)?)?| \(given back\)"
    rb"|~|\.bak|\.old)"
)
_MARKED = re.compile(MARK + rb"\Z")
_CHECKPOINT = re.compile(rb"checkpoint-\d+")


class Rule(msgspec.Struct, frozen=True):
    """A keep rule: its kind as in the configuration, and the folder of a `path-prefix`."""

    kind: str
    folder: bytes = b""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The keep rules in their order. `scope`: folders in which files may be changed; all where it is empty."""

    keep: tuple[Rule, ...] = ()
    scope: tuple[bytes, ...] = ()

    def covers(self, path: bytes) -> bool:
        """Whether a file of this name may be changed."""
        return not self.scope or any(is_inside(path, folder) for folder in self.scope)


def rules_of(settings: Dedupe, resolve: Callable[[str], bytes]) -> Rules:
    """The keep rules of `[dedupe]`, with its folders as in the catalogue's paths, as `resolve` gives them."""
    return Rules(
        keep=tuple(_rule(text, resolve) for text in settings.keep), scope=tuple(map(resolve, settings.scope))
    )


def _rule(text: str, resolve: Callable[[str], bytes]) -> Rule:
    if text.startswith(PATH_PREFIX):
        return Rule("path-prefix", resolve(text.removeprefix(PATH_PREFIX)))
    return Rule(text)


class Copy(NamedTuple):
    """An inode that is in a set, as the catalogue has it.

    `paths`: its names, sorted; `links`: names that lead to it through a symbolic link. `residue` stands for all
    bytes outside layers; None where it is not read yet. `metadata`: characters that its header says beside its
    layers. `extents`: where its blocks lie, where that is known (see `lorad.blocks`). `volatile`: it lies in
    memory, and is lost with the power. `read_only`: of each name on a file system that cannot be written to, where
    that begins. `function`: what its header says that changes what its layers do; empty where that is to be read.
    `configs`: the same of the configuration beside each name that has one.
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
    read_only: tuple[tuple[bytes, bytes], ...] = ()
    function: bytes | None = None
    configs: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def identity(self) -> Identity:
        return Identity(self.dev, self.ino, self.size, self.mtime_ns, self.ctime_ns)

    def function_of(self, path: bytes) -> tuple[bytes | None, bytes | None]:
        """What the file does under this name: what its header and the configuration beside it say."""
        return self.function, next((config for name, config in self.configs if name == path), None)

    @property
    def functions(self) -> frozenset[tuple[bytes | None, bytes | None]]:
        """What it does under its names. Files are of one function where these are equal."""
        return frozenset(map(self.function_of, (*self.paths, *self.links)))


class Choice(NamedTuple):
    """The kept file, the name that it is known by, and for the names of each other one why it is not kept."""

    kept: Copy
    path: bytes
    reasons: dict[tuple[bytes, ...], str]


def choose(copies: Sequence[Copy], rules: Rules) -> Choice:
    """Which of these, each with a name, is kept. The order in which they come makes no difference."""
    left = list(copies)
    reasons: dict[tuple[bytes, ...], str] = {}
    for rule in _in_order(rules) if len(left) > 1 else ():
        values = [_value(rule, copy, rules) for copy in left]
        best = min(values)
        if rule.kind == "most-metadata":
            best += _AS_RICH - 1
        before, left = left, [copy for copy, value in zip(left, values, strict=True) if value <= best]
        if len(left) < len(before):
            reason = _REASONS[rule.kind] if rule.kind != "path-prefix" else f"lies in {shown(rule.folder)}"
            reasons.update(
                (copy.paths, reason) for copy, value in zip(before, values, strict=True) if value > best
            )
        if len(left) == 1:
            break
    return Choice(left[0], name_of(left[0], rules), reasons)


def name_of(copy: Copy, rules: Rules) -> bytes:
    """The one of its names that the rules like best, of those under which it may be kept where there are any."""
    names = _keepable(copy, rules) or copy.paths
    kinds = [rule for rule in rules.keep if rule.kind in _OF_PATH]
    return min(names, key=lambda path: (*(_of_path(rule, path) for rule in kinds), path))


def may_keep(copy: Copy, rules: Rules) -> bool:
    """Whether others may go for this file; those that do not lie in memory only where it does not either.

    It may not where all its names lie on read-only file systems, unless a `path-prefix` rule names a folder there.
    """
    return bool(_keepable(copy, rules))


def may_keep_there(path: bytes, place: bytes, rules: Rules) -> bool:
    """Whether a rule names a read-only place that a file lies in, or a folder of it; one above it does not."""
    return any(
        rule.kind == "path-prefix" and is_inside(path, rule.folder) and is_inside(rule.folder, place)
        for rule in rules.keep
    )


def may_go(copy: Copy, rules: Rules) -> bool:
    """Whether all names of a file may be changed; only then its bytes can be freed."""
    return not copy.links and all(map(rules.covers, copy.paths))


def is_marked(path: bytes) -> bool:
    """Whether a name says that the file is a step on the way to another one, or a copy of it."""
    folder, _, name = path.rpartition(b"/")
    stem = name.rpartition(b".")[0] or name
    return bool(_MARKED.search(stem) or _CHECKPOINT.fullmatch(folder.rpartition(b"/")[2]))


def has_final_name(copy: Copy) -> bool:
    """Whether a file has a name that is not marked."""
    return not all(map(is_marked, copy.paths))


def level_of(copy: Copy, kept: Copy) -> str:
    """How a file is the same as the kept one of its set, which it agrees with on every layer."""
    if copy.residue is not None and (copy.residue, copy.size) == (kept.residue, kept.size):
        return "file"
    return "tensors"


def is_inside(path: bytes, folder: bytes) -> bool:
    """Whether a path is the folder, or lies below it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


_WRITABLE, _LASTS, _STAYS, _FIRST = Rule("writable"), Rule("lasts"), Rule("stays"), Rule("path")
#: What completes the sentence about a file that is not kept: the kept one ….
_REASONS = {
    "writable": "can be changed, while this file is read-only",
    "lasts": "lies on a disk, not in memory",
    "stays": "may not be changed",
    "final-name": "has a final name",
    "most-metadata": "has more metadata",
    "oldest": "is older",
    "newest": "is newer",
    "shortest-path": "has a shorter path",
    "path": "comes first by name",
}


def _in_order(rules: Rules) -> Iterator[Rule]:
    front = next((n for n, rule in enumerate(rules.keep) if rule.kind != "path-prefix"), len(rules.keep))
    yield _WRITABLE
    yield _LASTS
    yield from rules.keep[:front]
    yield _STAYS
    yield from rules.keep[front:]
    yield _FIRST


def _value(rule: Rule, copy: Copy, rules: Rules) -> Any:
    """What a rule goes by; the least is kept."""
    match rule.kind:
        case "writable":
            return not may_keep(copy, rules)
        case "lasts":
            return copy.volatile
        case "stays":
            return may_go(copy, rules)
        case "most-metadata":
            return -copy.metadata
        case "oldest":
            return copy.mtime_ns
        case "newest":
            return -copy.mtime_ns
    return min(_of_path(rule, path) for path in _keepable(copy, rules) or copy.paths)


def _of_path(rule: Rule, path: bytes) -> Any:
    match rule.kind:
        case "path-prefix":
            return not is_inside(path, rule.folder)
        case "final-name":
            return is_marked(path)
        case "shortest-path":
            return len(path)
    return path


_OF_PATH = frozenset({"path-prefix", "final-name", "shortest-path"})


def _keepable(copy: Copy, rules: Rules) -> Sequence[bytes]:
    """The names under which a file may be kept."""
    if not copy.read_only:
        return copy.paths
    places = dict(copy.read_only)
    return [path for path in copy.paths if path not in places or may_keep_there(path, places[path], rules)]
