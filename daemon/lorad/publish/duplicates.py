"""A set of files that hold the same weights, as it is shown: the kept name, the others, and what they waste."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from lorad.blocks.room import Room
from lorad.catalog.views import TOLD, Name
from lorad.library.keepers import Choice, Copy, Rules, choose, level_of


#: Nearly all files have none, and an empty dict for each takes 64 bytes.
_NONE: Mapping[bytes, bytes] = {}


class File:
    """An inode with its names in view, sorted. `facts` are those of any of its names.

    `configs`: by name, what the configuration beside it says that changes what the file does.
    """

    __slots__ = ("configs", "facts", "layout", "names")

    def __init__(self, facts: Name, layout: bytes | None) -> None:
        self.facts = facts
        self.layout = layout
        self.names: list[bytes] = []
        self.configs = _NONE

    def add(self, name: Name) -> None:
        insort(self.names, name.path)
        if name.config is not None:
            self.configs = {**self.configs, name.path: name.config}

    def remove(self, path: bytes) -> None:
        self.names.remove(path)
        if path in self.configs:
            self.configs = {name: config for name, config in self.configs.items() if name != path}

    @property
    def told(self) -> bool:
        return self.facts.status in TOLD

    @property
    def linked(self) -> bool:
        """Whether the views show its names as other names of each other."""
        return len(self.names) > 1 and self.told


class DuplicateSet(NamedTuple):
    """The same weights: the kept path, every other one with its level, and the bytes that they waste.

    `differs`: the paths under which a file has another function than the kept one.
    """

    kept: bytes
    levels: dict[bytes, str]
    differs: list[bytes]
    wasted_bytes: int


def judge(copies: Sequence[Copy], rules: Rules) -> DuplicateSet | None:
    """What is said of files that hold the same weights; None if they have one name in all."""
    if sum(len(_names(copy)) for copy in copies) < 2:
        return None
    kept, path, _ = _choose(copies, rules)
    function = kept.function_of(path)
    levels: dict[bytes, str] = {}
    differs: list[bytes] = []
    for copy in copies:
        level = "inode" if _names(copy) == _names(kept) else level_of(copy, kept)
        levels |= dict.fromkeys(_names(copy), level)
        differs += (name for name in _names(copy) if copy.function_of(name) != function)
    del levels[path]
    return DuplicateSet(path, levels, differs, sum(own_bytes(copies, rules, levels).values()))


def own_bytes(copies: Sequence[Copy], rules: Rules, shown: Container[bytes]) -> dict[bytes, int]:
    """What those of a set that are shown take of the disk, each by the first of its names that is.

    One file of each function is kept and takes nothing, and each block counts once.
    """
    room, kept = Room(), _choose(copies, rules).kept
    parts: dict[object, list[Copy]] = defaultdict(list)
    for copy in copies:
        parts[copy.functions].append(copy)
    staying = set()
    for functions, part in parts.items():
        stays = kept if functions == kept.functions else _choose(part, rules).kept
        staying.add(_names(stays))
        room.add(stays.size, stays.extents)
    own = {}
    for copy in sorted(copies, key=_names):
        name = next(filter(shown.__contains__, _names(copy)), None)
        if name is not None and _names(copy) not in staying:
            own[name] = room.add(copy.size, copy.extents)
    return own


def _choose(copies: Sequence[Copy], rules: Rules) -> Choice:
    """What is seen through links alone is shown by their names, and kept where there is nothing else."""
    named = [copy for copy in copies if copy.paths]
    return choose(named or [copy._replace(paths=copy.links, links=()) for copy in copies], rules)


def _names(copy: Copy) -> tuple[bytes, ...]:
    return tuple(sorted((*copy.paths, *copy.links))) if copy.links else copy.paths
