"""Which names below the roots are left out: neither walked nor watched, and in no view."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Sequence

from loracore.settings import excluded
from lorad.watch import timed_calls
from lorad.watch.mounts import is_below
from lorad.watch.scanner import is_ours

#: Hugging Face's cache: its files lie in `blobs`, and the names that they are used by are links in `snapshots`.
_BLOBS, _SNAPSHOTS = b"blobs", b"snapshots"


class Exclude:
    """`[watch] exclude` for these roots. Names that de-duplication makes are left out whatever it says.

    A name counts by its way from the innermost of the roots that it lies in. Bytes that are not UTF-8 are each one
    character to a pattern.
    """

    def __init__(self, patterns: Sequence[str] = (), roots: Sequence[bytes] = ()) -> None:
        """`patterns` as in the configuration: they extend the default, or begin with `!default`."""
        self.patterns = tuple(patterns)
        self._roots = sorted(roots, key=len, reverse=True)
        each, self._blobs = excluded(patterns)
        self._name = _any_of([pattern for pattern in each if "/" not in pattern])
        self._path = _any_of([pattern for pattern in each if "/" in pattern])

    def entry(self, path: bytes) -> bool:
        """Whether a name is left out, of whose folder it is known that it is not."""
        folder, _, name = path.rpartition(b"/")
        if is_ours(path) or (self._name and self._name(_text(name))):
            return True
        if self._path and (root := self._root(folder)) is not None:
            below = path[len(os.path.join(root, b"")) :]
            if self._path(_text(below)):
                return True
        return self._blobs and name == _BLOBS and os.path.isdir(os.path.join(folder, _SNAPSHOTS))

    def __call__(self, path: bytes) -> bool:
        """Whether a name, or a folder between it and its root, is left out."""
        root = self._root(path)
        if root is None:
            return False
        place = len(os.path.join(root, b""))
        while (place := path.find(b"/", place)) >= 0:
            if self.entry(path[:place]):
                return True
            place += 1
        return path != root and self.entry(path)

    def in_view(self) -> Callable[[bytes], bool]:
        """A test whether a name lies in a root and is not left out, for very many names at one time."""
        folders: dict[bytes, bool] = {}

        def is_in_view(path: bytes) -> bool:
            folder = path.rpartition(b"/")[0]
            if folder not in folders:
                folders[folder] = self._root(folder) is not None and not self(folder)
            return path in self._roots or (folders[folder] and not self.entry(path))

        return is_in_view

    def _root(self, path: bytes) -> bytes | None:
        return next((root for root in self._roots if is_below(path, root)), None)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _any_of(patterns: Sequence[str]) -> Callable[[str], object] | None:
    """A test whether one of the patterns fits."""
    return re.compile("|".join(map(fnmatch.translate, patterns))).match if patterns else None


class LeftOut:
    """What the watch over a root leaves out: names by `exclude`, and some folders."""

    def __init__(self, exclude: Exclude, folders: Iterable[bytes]) -> None:
        self._exclude = exclude
        self._folders = frozenset(folders)

    def entry(self, path: bytes) -> bool:
        """Whether a name in a folder that is watched is left out, or where it leads to as a link is."""
        return self._exclude.entry(path) or path in self._folders

    def target(self, link: bytes) -> bool:
        """Whether a link leads to what is left out."""
        target = timed_calls.real(link)
        return self._exclude(target) or target in self._folders
