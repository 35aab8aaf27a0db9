"""A file with its names, and one set of files that hold the same weights, by the rules of `find_duplicates`."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection
from operator import itemgetter
from typing import NamedTuple

from lorad.publish.snapshot import Name, level, own_bytes, rank

#: Statuses of files whose layout is known.
TOLD = frozenset(("grouped", "unique", "duplicate"))


class File:
    """An inode with its names in view, sorted. `facts` are those of any of its names, `configs` of each."""

    __slots__ = ("configs", "facts", "layout", "names")

    def __init__(self, facts: Name, layout: bytes | None) -> None:
        self.facts = facts
        self.layout = layout
        self.names: list[bytes] = []
        #: What the configuration beside a name says, where it says anything.
        self.configs: dict[bytes, bytes] = {}

    def add(self, path: bytes, config: bytes | None) -> None:
        insort(self.names, path)
        if config is not None:
            self.configs[path] = config

    def remove(self, path: bytes) -> None:
        self.names.remove(path)
        self.configs.pop(path, None)

    def function(self, path: bytes) -> tuple[bytes | None, bytes | None]:
        """What is said of it under a name beside its tensors."""
        return self.facts.function, self.configs.get(path)

    @property
    def told(self) -> bool:
        return self.facts.status in TOLD

    @property
    def linked(self) -> bool:
        """Whether the views show its names as other names of each other."""
        return len(self.names) > 1 and self.told


class DuplicateSet(NamedTuple):
    """The same weights: the kept path, every other one with its level, and the bytes that they waste.

    `differing` are those of another function than the kept one.
    """

    kept: bytes
    levels: dict[bytes, str]
    differing: set[bytes]
    wasted_bytes: int


def find_kept(files: Collection[File]) -> DuplicateSet | None:
    """What is said of files that hold the same weights; None if they have one name in all."""
    names = ((rank(file.facts, path), file) for file in files for path in file.names)
    (*_, kept_path), kept = min(names, key=itemgetter(0))
    levels = {path: level(file.facts, kept.facts) for file in files for path in file.names if path != kept_path}
    function = kept.function(kept_path)
    differing = {path for file in files for path in file.names if file.function(path) != function}
    stay = [kept.facts, *(file.facts for file in files if not differing.isdisjoint(file.names))]
    wasted = sum(own_bytes(stay, (file.facts for file in files)))
    return DuplicateSet(kept_path, levels, differing, wasted) if levels else None
