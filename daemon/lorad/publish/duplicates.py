"""A set of files that hold the same weights, as it is shown: the kept name, the others, and what they waste."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Container, Mapping, Sequence
from typing import NamedTuple

from lorad.blocks.usage import Room
from lorad.catalog.views import TOLD, Name
from lorad.library.keepers import Copy, Rules, choose, level_of

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
    # What is seen through links alone is shown by their names, and kept where there is nothing else.
    named = [copy for copy in copies if copy.paths]
    kept, path, _ = choose(named or [copy._replace(paths=copy.links, links=()) for copy in copies], rules)
    function = kept.function_of(path)
    levels: dict[bytes, str] = {}
    differs: list[bytes] = []
    for copy in copies:
        level = "inode" if path in _names(copy) else level_of(copy, kept)
        levels |= dict.fromkeys(_names(copy), level)
        differs += (name for name in _names(copy) if copy.function_of(name) != function)
    del levels[path]
    wasted = own_bytes(copies, {path, *differs}, levels)
    return DuplicateSet(path, levels, differs, sum(wasted.values()))


def own_bytes(copies: Sequence[Copy], stays: Collection[bytes], shown: Container[bytes]) -> dict[bytes, int]:
    """What those of a set that are shown take of the disk, each by the first of its names that is.

    A file with a name that `stays` (the kept one, and those of another function) takes nothing; each block counts
    once.
    """
    room, others = Room(), list[Copy]()
    for copy in sorted(copies, key=_names):
        if any(name in stays for name in _names(copy)):
            room.add(copy.size, copy.extents)
        else:
            others.append(copy)
    named = ((next(filter(shown.__contains__, _names(copy)), None), copy) for copy in others)
    return {name: room.add(copy.size, copy.extents) for name, copy in named if name is not None}


def _names(copy: Copy) -> tuple[bytes, ...]:
    return tuple(sorted((*copy.paths, *copy.links))) if copy.links else copy.paths
