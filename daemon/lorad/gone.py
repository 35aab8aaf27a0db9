"""What is not there any more and may come back, so that it is no news then.

An inode that was told apart may come back under another name, or with other times, within the hour: `Gone.back`.
A name that led to a duplicate may lead to the same weights again, in another inode, as its file was written anew,
touched or restored: `Gone.held`. The catalogue has both, for either may take longer than lorad runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from lorad.catalog import Catalog, Departed, Held
from lorad.pipeline.protocol import Identity

#: Seconds for which an inode without a name may come back under another one. Looking through a renamed folder on a
#: slow disk, after all that waits before it, takes no longer.
_AWAY = 3600.0
#: Seconds for which it is known what a name held, and how many names.
_HELD, _NAMES = 30 * 86400.0, 200_000
_Inode = tuple[int, int]
_K = TypeVar("_K")
_V = TypeVar("_V")


class _Inodes(NamedTuple):
    size: int
    mtime_ns: int
    names: tuple[bytes, ...]
    gone_at: float
    signature: bytes | None


class _Name(NamedTuple):
    signature: bytes
    gone_at: float


class Gone:
    """Changes are collected for the next `save`, into the catalogue's open transaction."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        #: The oldest first.
        self._inodes: dict[_Inode, _Inodes] = {}
        self._names: dict[bytes, _Name] = {}
        #: What the catalogue has otherwise.
        self._changed_inodes: set[_Inode] = set()
        self._changed_names: set[bytes] = set()
        #: Names that we took ourselves.
        self._ours: set[bytes] = set()

    def load(self) -> None:
        for gone in self._catalog.departed():
            inode = gone.dev % 2**64, gone.ino % 2**64
            # Nobody knows for how long of that time lorad was there to see it come back.
            names = tuple(gone.names.split(b"\0"))
            self._inodes[inode] = _Inodes(gone.size, gone.mtime_ns, names, time.time(), gone.signature)
        for held in self._catalog.held():
            self._names[held.path] = _Name(held.signature, held.gone_at)

    def lost(self, path: bytes, signature: bytes) -> None:
        """A name does not lead to a duplicate of these weights any more."""
        if path in self._ours:
            self._ours.remove(path)
            return
        now = time.time()
        for name in _stale(self._names, lambda one: now - one.gone_at >= _HELD, _NAMES):
            del self._names[name]
            self._changed_names.add(name)
        self._names.pop(path, None)
        self._names[path] = _Name(signature, now)
        self._changed_names.add(path)

    def took(self, path: bytes, *, still: bool) -> None:
        """It was us who took a file from its name. What comes there next is as new as elsewhere.

        `still`: that is yet to be seen.
        """
        if self._names.pop(path, None) is not None:
            self._changed_names.add(path)
        if still:
            self._ours.add(path)

    def held(self, path: bytes, signature: bytes | None) -> bool:
        """Whether a name led to a duplicate of these weights before."""
        name = self._names.get(path)
        return name is not None and name.signature == signature

    def went(self, identity: Identity, names: tuple[bytes, ...], signature: bytes | None) -> None:
        """An inode that was told apart under these names has none any more, or other times.

        `signature`: that of its weights, if it was a duplicate.
        """
        now = time.time()
        for inode in _stale(self._inodes, lambda one: now - one.gone_at >= _AWAY, None):
            del self._inodes[inode]
            self._changed_inodes.add(inode)
        inode = identity.dev, identity.ino
        self._inodes.pop(inode, None)
        self._inodes[inode] = _Inodes(identity.size, identity.mtime_ns, names, now, signature)
        self._changed_inodes.add(inode)

    def back(self, identity: Identity) -> tuple[tuple[bytes, ...], bytes | None]:
        """The names that an inode had when it was told apart, if it is still of that size and mtime.

        And the signature of its weights, if it was a duplicate: it may have been written to.
        """
        inode = identity.dev, identity.ino
        gone = self._inodes.pop(inode, None)
        if gone is None:
            return (), None
        self._changed_inodes.add(inode)
        if time.time() - gone.gone_at >= _AWAY:
            return (), None
        same = (gone.size, gone.mtime_ns) == (identity.size, identity.mtime_ns)
        return gone.names if same else (), gone.signature

    def save(self) -> None:
        self._catalog.drop_departed(map(_signed, self._changed_inodes))
        self._catalog.save_departed(
            Departed(
                *_signed(inode), gone.size, gone.mtime_ns, b"\0".join(gone.names), gone.gone_at, gone.signature
            )
            for inode in self._changed_inodes
            if (gone := self._inodes.get(inode)) is not None
        )
        self._catalog.drop_held(self._changed_names)
        self._catalog.save_held(
            Held(path, *name) for path in self._changed_names if (name := self._names.get(path)) is not None
        )
        self._changed_inodes.clear()
        self._changed_names.clear()


def _stale(book: dict[_K, _V], is_old: Callable[[_V], bool], most: int | None) -> list[_K]:
    """The keys at its front that are to go: too old, or one too many."""

    def keys() -> Iterator[_K]:
        for key, value in book.items():
            if not is_old(value):
                return
            yield key

    return list(keys()) or ([next(iter(book))] if most is not None and len(book) >= most else [])


def _signed(inode: _Inode) -> _Inode:
    """As SQLite has it."""
    dev, ino = (number - 2**64 if number >= 2**63 else number for number in inode)
    return dev, ino
