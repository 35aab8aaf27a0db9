"""Newcomers that wait, as the catalogue keeps them, so that a lorad that was stopped or killed goes on with them.

All of it goes through the catalogue's open transaction: a name is noted in the commit that makes it a duplicate.
It counts as long as it leads to the inode that it led to then, of that size and mtime. Whoever puts another file
in its place, an old duplicate for one, has made no newcomer of that; what is newly written there is told of again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lorad.catalog import Catalog, Newcomer
from lorad.dedupe.newcomers import MOST
from lorad.files import Files, signed


class Remembered:
    """The newcomers in a catalogue whose files are these. Only for the core."""

    def __init__(self, catalog: Catalog, files: Files) -> None:
        self._catalog = catalog
        self._files = files
        self._noted: dict[bytes, Newcomer] = {}

    def take_up(self, knows: Callable[[bytes], bool]) -> list[bytes]:
        """What waits since an earlier run. What is out of view, or not new for `knows`, is dropped."""
        stale = []
        for newcomer in self._catalog.newcomers():
            path = newcomer.path
            if len(self._noted) < MOST and knows(path) and self._seen(path) == newcomer:
                self._noted[path] = newcomer
            else:
                stale.append(path)
        self._catalog.drop_newcomers(stale)
        return list(self._noted)

    def note(self, path: bytes) -> None:
        """A duplicate of this name is a newcomer."""
        newcomer = self._seen(path)
        if newcomer is not None:
            self._noted[path] = newcomer
            self._catalog.save_newcomer(newcomer)

    def still(self, path: bytes) -> Newcomer | None:
        """What a name led to when it was noted, if it does so still."""
        noted = self._noted.get(path)
        return noted if noted is not None and self._seen(path) == noted else None

    def was(self, path: bytes, before: bytes) -> bool:
        """Whether another name was noted for the very inode that this one leads to."""
        noted, seen = self._noted.get(before), self._seen(path)
        return noted is not None and seen is not None and noted[1:] == seen[1:]

    def drop(self, paths: Iterable[bytes]) -> bool:
        """Nothing more is to be done about these; whether that is to be committed, as one of them was noted."""
        known = [path for path in paths if self._noted.pop(path, None) is not None]
        self._catalog.drop_newcomers(known)
        return bool(known)

    def clear(self) -> bool:
        """Drop all, as `drop` does."""
        return self.drop(list(self._noted))

    def _seen(self, path: bytes) -> Newcomer | None:
        file = self._files.by_path.get(path)
        if file is None:
            return None
        return Newcomer(path, signed(file.identity.ino), file.identity.size, file.identity.mtime_ns)
