"""Sets of duplicates in the catalogue: their names, the files of a set, and copies of which one is kept.

A set is what agrees on every layer, or one file with several names. Not here: which of its files is kept
(`lorad.library.keepers`) and what is made of it (`lorad.publish`, `lorad.dedupe.plan`).
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence

from lorad.catalog.views import COLUMNS, IN_VIEW, TOLD, Name, file_at
from lorad.library.keepers import Copy
from lorad.watch.storage import Finder, Storage

_IN_SETS = (
    f"SELECT {COLUMNS}, ino, ctime_ns {IN_VIEW} AND (status = 'duplicate' OR (status IN {TOLD} AND file IN "
    "(SELECT file FROM names WHERE active = 1 GROUP BY file HAVING count(*) > 1))) ORDER BY path"
)

_SET_OF = (
    f"SELECT {COLUMNS}, ino, ctime_ns {IN_VIEW} AND (file = ?1 OR (status = 'duplicate' AND "
    "(layout, signature) = (SELECT layout, signature FROM files WHERE id = ?1 AND status = 'duplicate'))) "
    "ORDER BY path"
)


def sets_of(names: Iterable[Name]) -> list[list[list[Name]]]:
    """The sets that these names make up: for each its files, for each file its names."""
    sets: dict[object, dict[int, list[Name]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        if name.status in TOLD:
            key = (name.layout, name.signature) if name.status == "duplicate" else name.file
            sets[key][name.file].append(name)
    return [list(files.values()) for files in sets.values() if sum(map(len, files.values())) > 1]


class Copies:
    """Makes copies of names, as they lie on this storage."""

    def __init__(self, storage: Storage, *, follow: bool) -> None:
        """`follow`: names may be symbolic links, so that each of them has to be looked at."""
        self._finder = Finder(storage)
        self._leads_through = Links().leads_through if follow else None

    def of(self, file: Name, names: Iterable[bytes], configs: Iterable[tuple[bytes, bytes]]) -> Copy:
        """The file of a name, as a copy; `configs` is what the configuration beside a name says."""
        paths = tuple(sorted(names))
        links: tuple[bytes, ...] = ()
        if self._leads_through:
            links = tuple(filter(self._leads_through, paths))
            paths = tuple(path for path in paths if path not in links)
        identity, volatile = file.identity, False
        read_only: list[tuple[bytes, bytes]] = []
        if not self._finder.plain and paths:
            volatile = self._finder.volatile(paths[0])
            places = ((path, self._finder.read_only(path, identity.dev)) for path in paths)
            read_only = [(path, place) for path, place in places if place is not None]
        return Copy(
            paths,
            identity.dev,
            identity.ino,
            identity.size,
            identity.mtime_ns,
            identity.ctime_ns,
            file.residue,
            file.metadata or 0,
            links,
            file.extents,
            volatile,
            tuple(read_only),
            file.function,
            tuple(sorted(configs)),
        )

    def set_of(self, files: Iterable[Sequence[Name]]) -> list[Copy]:
        """A set out of the names of each of its files."""
        return [
            self.of(
                names[0],
                [name.path for name in names],
                [(name.path, name.config) for name in names if name.config is not None],
            )
            for names in files
        ]


class Links:
    """Which names are symbolic links, or lie in a folder reached through one; each folder is asked once."""

    def __init__(self) -> None:
        self._folders: dict[bytes, bool] = {b"/": False}

    def leads_through(self, path: bytes) -> bool:
        return self._folder(os.path.dirname(path)) or _is_link(path)

    def _folder(self, folder: bytes) -> bool:
        below = []
        while folder not in self._folders:
            below.append(folder)
            folder = os.path.dirname(folder)
        found = self._folders[folder]
        for each in reversed(below):
            found = self._folders[each] = found or _is_link(each)
        return found


def _is_link(path: bytes) -> bool:
    """Whether a name is a symbolic link. One that cannot be looked at counts as none; an action looks again."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


def names_in_sets(db: sqlite3.Connection) -> list[Name]:
    """All that can be in a set: duplicates, and files with several names."""
    return list(map(Name._make, db.execute(_IN_SETS)))


def names_in_sets_with(db: sqlite3.Connection, paths: Iterable[bytes]) -> list[Name]:
    """The names of these paths' files, and all that are in a set with them."""
    names: dict[bytes, Name] = {}
    for path in paths:
        if path not in names and (file := file_at(db, path)) is not None:
            names.update((name.path, name) for name in map(Name._make, db.execute(_SET_OF, (file,))))
    return list(names.values())
