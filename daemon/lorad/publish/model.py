"""What the views show, in memory from one generation to the next, so that a change costs no more than itself.

The catalogue is the truth and this is a copy of it: a model that was led through many generations says
exactly what a new one says of the last of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TypeVar

from lorad.catalog.duplicates import Copies
from lorad.catalog.views import Name, Snapshot, Terms
from lorad.publish.duplicates import DuplicateSet, File, judge
from lorad.publish.pages import Key, Pages

_T = TypeVar("_T")
#: What stands for a set of the same weights: layout and weight signature, or the one file with several names.
_SetKey = tuple[bytes | None, bytes | None] | int


class Model:
    """All names in view. `update` takes it from any generation to another one."""

    def __init__(self) -> None:
        self.generation = -1
        self.complete = False
        self.stages: dict[str, dict[str, float]] = {}
        #: How many names have each status, and how many layouts they have.
        self.counts: Counter[str] = Counter()
        #: Bytes of all files that are looked at, each inode once.
        self.bytes_total = 0
        self.duplicate_sets = 0
        self.wasted_bytes = 0
        #: What stands in the files, by heading (if any) and path.
        self.processed = Pages()
        self.groups = Pages()
        self.refined_groups = Pages()
        self.duplicates = Pages()
        self.levels = Pages()
        self.links = Pages()
        self.functions = Pages()
        #: Files by name.
        self.names: dict[bytes, File] = {}
        #: How a name is the same as the kept one of its set.
        self.level: dict[bytes, str] = {}
        self._files: dict[int, File] = {}
        self._layouts: Counter[bytes] = Counter()
        self._sets: dict[_SetKey, dict[int, File]] = {}
        self._judged: dict[_SetKey, DuplicateSet] = {}
        self._changed_sets: set[_SetKey] = set()
        self._terms = Terms()

    @property
    def files_total(self) -> int:
        return len(self.names)

    @property
    def layouts(self) -> int:
        """How many layouts the files have."""
        return len(self._layouts)

    def update(self, snapshot: Snapshot, paths: Collection[bytes]) -> None:
        """Take over what `snapshot` says of `paths`: all names whose row differs from what this model knows.

        A path that the snapshot does not have is not in view any more. Paths that did not change do no harm.
        """
        affected = {id(file): file for path in paths if (file := self.names.get(path)) is not None}
        for name in snapshot.names:
            if (known := self._files.get(name.file)) is not None:
                affected[id(known)] = known
        for file in affected.values():
            self._account(file, -1)
        for path in paths:
            if (named := self.names.pop(path, None)) is not None:
                named.remove(path)
        for name in snapshot.names:
            file = self._learn(name, snapshot.layouts)
            affected[id(file)] = file
        for file in affected.values():
            if file.names:
                self._account(file, 1)
            else:
                del self._files[file.facts.file]
        if snapshot.terms != self._terms:
            self._terms = snapshot.terms
            self._changed_sets.update(self._sets)
        self._judge()
        self.generation, self.complete, self.stages = snapshot.generation, snapshot.complete, snapshot.stages

    def _learn(self, name: Name, layouts: dict[int, bytes]) -> File:
        """Put a name to its file, with what is known of that now."""
        layout = layouts[name.layout] if name.layout is not None else None
        file = self._files.get(name.file)
        if file is None:
            file = self._files[name.file] = File(name, layout)
        file.facts, file.layout = name, layout
        file.add(name)
        self.names[name.path] = file
        return file

    def _account(self, file: File, sign: int) -> None:
        """Put a file in its places in the views (1), or take it out of them (-1)."""
        facts = file.facts
        _count(self.counts, facts.status, sign * len(file.names))
        if facts.status != "ignored":
            self.bytes_total += sign * facts.size
        for pages, key in self._places(file):
            (pages.place if sign > 0 else pages.withdraw)(key)
        if file.told and file.layout is not None:
            _count(self._layouts, file.layout, sign)
        in_set = _set_key(file)
        if in_set is not None:
            if sign > 0:
                self._sets.setdefault(in_set, {})[facts.file] = file
            else:
                del self._sets[in_set][facts.file]
            self._changed_sets.add(in_set)

    def _places(self, file: File) -> Iterator[tuple[Pages, Key]]:
        told, linked = file.told, file.linked
        for path in file.names:
            yield self.processed, (b"", path)
            if told and file.layout is not None:
                yield self.groups, (file.layout, path)
            if told and file.facts.signature is not None:
                yield self.refined_groups, (file.facts.signature, path)
            if linked:
                yield self.links, (b"", path)

    def _judge(self) -> None:
        """Say anew what is kept in the sets that changed."""
        changed, self._changed_sets = self._changed_sets, set()
        for key in changed:
            before = self._judged.pop(key, None)
            if before is not None:
                self._account_set(before, -1)
        copies = Copies(self._terms.storage, follow=self._terms.follow)
        for key in changed:
            if not self._sets[key]:
                del self._sets[key]
                continue
            files = self._sets[key].values()
            now = judge(
                [copies.of(file.facts, file.names, file.configs.items()) for file in files], self._terms.rules
            )
            if now is not None:
                self._judged[key] = now
                self._account_set(now, 1)

    def _account_set(self, shown: DuplicateSet, sign: int) -> None:
        """Put a set in its places in the views (1), or take it out of them (-1)."""
        self.duplicate_sets += sign
        self.wasted_bytes += sign * shown.wasted_bytes
        move = Pages.place if sign > 0 else Pages.withdraw
        for path, level in shown.levels.items():
            move(self.duplicates, (shown.kept, path))
            move(self.levels, (b"", path))
            if sign > 0:
                self.level[path] = level
            else:
                del self.level[path]
        for path in shown.differs:
            move(self.functions, (b"", path))


def _set_key(file: File) -> _SetKey | None:
    """The set that a file is in, perhaps alone with one name; None for files that are in none."""
    if file.facts.status == "duplicate":
        return file.layout, file.facts.signature
    return file.facts.file if file.linked else None


def _count(counter: Counter[_T], key: _T, change: int) -> None:
    counter[key] += change
    if not counter[key]:
        del counter[key]
