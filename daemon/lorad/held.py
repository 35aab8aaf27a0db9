"""Which names held which weights: what a file may have been before, so that it is no newcomer (SPEC section 5).

A name that leads to another file, to the same one after a change, or to nothing leaves a row that says what it
led to. The catalogue has all of it, bounded, in the order in which it was written. What is new is collected for
the next `save`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lorad.catalog import Catalog, HeldRow
from lorad.pipeline.protocol import Identity

#: Rows that are kept, and after how many more that is seen to.
MOST, _MORE = 400_000, 10_000


class Weights(NamedTuple):
    """What tells weights from others: the signatures of their layout and of the digests of its layers."""

    layout: bytes
    digests: bytes


class Held:
    """Where the weights of an inode were not known, size and mtime have to agree: its number is given again.

    Where they were known, they alone tell. A new file that gets the number of a removed one of the same weights is
    taken for it, and so for an old one: that is the harmless side, as such a file is only left alone.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._new: list[tuple[bytes, int, int, int, int, int | None, bytes]] = []
        self._unbounded = _MORE
        #: Whether there may be rows at all: most libraries are looked through for the first time without one.
        self._any = False
        #: Devices that are known under another number by now.
        self.renumbered: dict[int, int] = {}

    def load(self) -> None:
        self._any = bool(self._catalog.bound_held(MOST))

    def lost(self, path: bytes, identity: Identity, layout: int | None, weights: bytes | None) -> None:
        """A name does not lead to this file any more. `layout` (a number) and `weights`: None if not known."""
        dev, ino = signed(identity.dev), signed(identity.ino)
        self._new.append((path, dev, ino, identity.size, identity.mtime_ns, layout, weights or b""))

    def knows(self, paths: Iterable[bytes], identity: Identity, weights: Weights) -> bool:
        """Whether one of these names, or this inode, led to these weights before, or may have."""
        return any(
            row.layout in (b"", weights.layout) and row.weights in (b"", weights.digests)
            for rows in (*map(self._at, paths), self._by(identity))
            for row in rows
        )

    def last(self, path: bytes, identity: Identity) -> Weights | None:
        """The weights that this inode led to when it was last known, or else this name."""
        for rows in (self._by(identity), self._at(path)):
            if rows and rows[0].layout and rows[0].weights:
                return Weights(rows[0].layout, rows[0].weights)
        return None

    def forget_inode(self, identity: Identity) -> None:
        """An inode is gone for good, so that a new file may have its number."""
        self.save()
        self._catalog.forget_inode(signed(identity.dev), signed(identity.ino))

    @property
    def unsaved(self) -> int:
        return len(self._new)

    def save(self) -> None:
        """Write what is new into the catalogue's open transaction."""
        if not self._new:
            return
        self._catalog.save_held(self._new)
        self._any = True
        self._unbounded += len(self._new)
        self._new.clear()
        if self._unbounded >= _MORE:
            self._catalog.bound_held(MOST)
            self._unbounded = 0

    def _at(self, path: bytes) -> list[HeldRow]:
        self.save()
        return self._catalog.held_at(path) if self._any else []

    def _by(self, identity: Identity) -> list[HeldRow]:
        """Rows of this inode, as far as it is not only another one of its number."""
        self.save()
        if not self._any:
            return []
        return [
            row
            for row in self._catalog.held_by(signed(identity.ino))
            if identity.dev in (row.dev % 2**64, self.renumbered.get(row.dev % 2**64))
            and (row.weights or (row.size, row.mtime_ns) == (identity.size, identity.mtime_ns))
        ]


def signed(number: int) -> int:
    """An unsigned 64-bit number as SQLite's signed one."""
    return number - 2**64 if number >= 2**63 else number
