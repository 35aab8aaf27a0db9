"""The sets of duplicates in the catalogue, with all that a plan asks of their files.

Read on a connection that cannot write, in a transaction that the caller holds. The sets are those of
`duplicates.json`; what makes one is said in `lorad.publish.snapshot`.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple
from zlib import decompress

from loracore.tensorfile.container import Arrangement
from lorad.dedupe.keeping import Copy

_COLUMNS = (
    "SELECT path, files.id, dev, ino, size, mtime_ns, ctime_ns, status, layout, signature, residue, "
    "format, base, arrangement FROM names JOIN files ON files.id = names.file WHERE active = 1"
)
_TOLD = "status IN ('grouped', 'unique', 'duplicate')"
_ALL = (
    f"{_COLUMNS} AND (status = 'duplicate' OR ({_TOLD} AND files.id IN "
    "(SELECT file FROM names WHERE active = 1 GROUP BY file HAVING count(*) > 1))) ORDER BY path"
)
_WITH = (
    f"{_COLUMNS} AND {_TOLD} AND (files.id = ?1 OR (status = 'duplicate' AND (layout, signature) = "
    "(SELECT layout, signature FROM files WHERE id = ?1 AND status = 'duplicate'))) ORDER BY path"
)


class _Row(NamedTuple):
    path: bytes
    file: int
    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    status: str
    layout: int | None
    signature: bytes | None
    residue: bytes | None
    format: str | None
    base: int | None
    arrangement: int | None


def read_sets(db: sqlite3.Connection, *, follow: bool) -> list[list[Copy]]:
    """All sets. `follow`: names may be symbolic links, so that each of them has to be looked at."""
    return _sets(map(_Row._make, db.execute(_ALL)), db, follow)


def read_sets_with(db: sqlite3.Connection, paths: Iterable[bytes], *, follow: bool) -> list[list[Copy]]:
    """The sets that hold one of these names."""
    rows: dict[bytes, _Row] = {}
    for path in paths:
        if path not in rows:
            found = db.execute("SELECT file FROM names WHERE active = 1 AND path = ?", (path,)).fetchone()
            if found is not None:
                rows.update((row.path, row) for row in map(_Row._make, db.execute(_WITH, found)))
    return _sets(rows.values(), db, follow)


def _sets(rows: Iterable[_Row], db: sqlite3.Connection, follow: bool) -> list[list[Copy]]:
    sets: dict[object, dict[int, list[_Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        key = (row.layout, row.signature) if row.status == "duplicate" else row.file
        sets[key][row.file].append(row)
    places = _Places(db)
    links = _Links()
    return [
        [
            _copy(names, links if follow else None, metadata)
            for names, metadata in zip(files.values(), places.metadata(files), strict=True)
        ]
        for files in sets.values()
        if sum(map(len, files.values())) > 1
    ]


def _copy(names: list[_Row], through: _Links | None, metadata: int) -> Copy:
    row = names[0]
    paths = sorted(name.path for name in names)
    links = {path for path in paths if through.leads_through(path)} if through else set()
    return Copy(
        tuple(path for path in paths if path not in links),
        row.dev % 2**64,
        row.ino % 2**64,
        row.size,
        row.mtime_ns,
        row.ctime_ns,
        row.residue,
        metadata,
        tuple(sorted(links)),
    )


class _Links:
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
    """Whether a name is a symbolic link. What cannot be looked at is left to whoever acts on it."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


class _Places:
    """What the headers of a set's files say beyond their layers, which are the same for all of them.

    Of a safetensors header all but the digits of the offsets is taken, for those depend on the order of the
    layers. Checkpoints of torch have no header for what people write about a file.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._digits: dict[int, int] = {}

    def metadata(self, files: dict[int, list[_Row]]) -> list[int]:
        """Bytes for each file, to be compared within the set alone."""
        rows = [names[0] for names in files.values()]
        orders = {row.arrangement for row in rows if row.format == "safetensors"}
        return [
            (row.base or 0) - (self._digits_of(row.arrangement) if len(orders) > 1 else 0)
            if row.format == "safetensors"
            else 0
            for row in rows
        ]

    def _digits_of(self, arrangement: int | None) -> int:
        """Digits of a header's offsets; each end but the last, which all files share, is a beginning."""
        if arrangement is None:
            return 0
        if arrangement not in self._digits:
            row = self._db.execute("SELECT encoded FROM arrangements WHERE id = ?", (arrangement,)).fetchone()
            offsets = Arrangement.decode(decompress(row[0])).offsets if row else ()
            self._digits[arrangement] = 2 * sum(len(str(offset)) for offset in offsets)
        return self._digits[arrangement]
