"""Which names held which weights: what a file may have been before, so that it is no newcomer (SPEC section 5).

A name that leads to another file, to the same one after a change, or to nothing leaves a row that says what it
led to, and so does its inode, which may come under another name. The catalogue has all of it, bounded, in the
order in which it was written. What is new is collected for the next `save`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from loracore.identity import Identity
from lorad.catalog import Catalog, HeldInode, Lost

#: Rows of each kind that are kept, and after how many more that is seen to.
MOST, _MORE = 400_000, 10_000


class Weights(NamedTuple):
    """What tells weights from others: the signatures of their layout and of the digests of its layers."""

    layout: bytes
    digests: bytes


class Held:
    """An inode is known by its number, and as that is given again, by when it was made.

    Where a file system does not say that, a new file of the same weights with the number of a removed one is taken
    for an old one: that is the harmless side. Where the weights were not known either, size and mtime must agree.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lost: list[Lost] = []
        self._unbounded = 0
        #: Whether there may be rows at all: most libraries are looked through for the first time without one.
        self._any = True
        #: Devices that are known under another number by now.
        self.renumbered: dict[int, int] = {}

    def load(self) -> None:
        self._any = bool(self._catalog.held.bound(MOST))

    def lost(
        self, path: bytes, identity: Identity, born: int | None, layout: int | None, weights: bytes | None
    ) -> None:
        """A name does not lead to this file any more. `layout` (a number) and `weights`: None if not known."""
        self._lost.append(Lost(path, identity, born, layout, weights or b""))

    def knows(self, paths: Iterable[bytes], identity: Identity, born: int | None, weights: Weights) -> bool:
        """Whether one of these names, or this inode, led to these weights before, or may have."""
        names = (held for path in paths for held in self._at(path))
        inodes = ((row.layout, row.weights) for row in self._by(identity, born))
        return any(
            layout in (b"", weights.layout) and digests in (b"", weights.digests)
            for layout, digests in chain(names, inodes)
        )

    def last(self, path: bytes, identity: Identity, born: int | None) -> Weights | None:
        """The weights that this inode led to when it was last known, or else this name."""
        for rows in ([(row.layout, row.weights) for row in self._by(identity, born)], self._at(path)):
            if rows and all(rows[0]):
                return Weights(*rows[0])
        return None

    def knows_inode(self, identity: Identity, born: int | None) -> bool:
        """Whether some name led to this inode before."""
        return bool(self._by(identity, born))

    def forget_inode(self, identity: Identity) -> None:
        """An inode is gone for good, so that a new file may have its number."""
        self.save()
        self._catalog.held.forget_inode(identity)

    @property
    def unsaved(self) -> int:
        return len(self._lost)

    def save(self) -> None:
        """Write what is new into the catalogue's open transaction."""
        if not self._lost:
            return
        self._catalog.held.save(self._lost)
        self._any = True
        self._unbounded += len(self._lost)
        self._lost.clear()
        if self._unbounded >= _MORE:
            self._catalog.held.bound(MOST)
            self._unbounded = 0

    def _at(self, path: bytes) -> list[tuple[bytes, bytes]]:
        self.save()
        return self._catalog.held.at(path) if self._any else []

    def _by(self, identity: Identity, born: int | None) -> list[HeldInode]:
        """Rows of this inode, as far as it is not only another one of its number."""
        self.save()
        if not self._any:
            return []

        def same(row: HeldInode) -> bool:
            if identity.dev not in (row.dev, self.renumbered.get(row.dev)):
                return False
            if None not in (born, row.born):
                return born == row.born
            return bool(row.weights) or (row.size, row.mtime_ns) == (identity.size, identity.mtime_ns)

        return list(filter(same, self._catalog.held.by(identity.ino)))
