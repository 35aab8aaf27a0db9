"""Reading the catalogue, on a connection that cannot write: names in view, and the sets of duplicates among them.

A set is what agrees on every layer, or one file with several names. Not here: which of its files is kept
(`lorad.library.keepers`) and what is made of it (`lorad.publish`, `lorad.dedupe.plan`).
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from loracore.identity import Identity
from loracore.paths import CATALOGUE
from lorad import state_folder
from lorad.library.keepers import Copy, Rules
from lorad.watch.storage import Finder, Storage

#: Statuses of files whose layout is known.
TOLD = ("grouped", "unique", "duplicate")
_COLUMNS = (
    "path, file, dev, size, mtime_ns, layout, status, load_seconds, error, signature, residue, extents, metadata, "
    "function, config"
)
_IN_VIEW = "FROM names JOIN files ON files.id = names.file WHERE active = 1"
_NAMES = f"SELECT {_COLUMNS}, 0, 0 {_IN_VIEW}"
_IN_SETS = (
    f"SELECT {_COLUMNS}, ino, ctime_ns {_IN_VIEW} AND (status = 'duplicate' OR (status IN {TOLD} AND file IN "
    "(SELECT file FROM names WHERE active = 1 GROUP BY file HAVING count(*) > 1))) ORDER BY path"
)
_SET_OF = (
    f"SELECT {_COLUMNS}, ino, ctime_ns {_IN_VIEW} AND (file = ?1 OR (status = 'duplicate' AND (layout, signature) "
    "= (SELECT layout, signature FROM files WHERE id = ?1 AND status = 'duplicate'))) ORDER BY path"
)


class Name(NamedTuple):
    """One name of a file, with what is known of the file. The last two are 0 in a snapshot."""

    path: bytes
    file: int
    dev: int
    size: int
    mtime_ns: int
    layout: int | None
    status: str
    load_seconds: float
    error: str | None
    signature: bytes | None
    residue: bytes | None
    extents: bytes | None
    metadata: int | None
    function: bytes | None
    config: bytes | None
    ino: int
    ctime_ns: int


class Terms(msgspec.Struct, frozen=True):
    """All that it depends on which file of a set is kept, beside the files. `follow`: names may be links."""

    rules: Rules = Rules()
    storage: Storage = Storage()
    follow: bool = False

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)


_TERMS = msgspec.msgpack.Decoder(Terms)
#: Under this name the catalogue keeps the terms that its present generation goes by.
TERMS = "terms"


class Snapshot(NamedTuple):
    """Names in view, sorted by path; each layout's signature; what stages cost; the generation.

    `names` are all names, or those of the paths that were asked for.
    """

    generation: int
    complete: bool
    names: list[Name]
    layouts: dict[int, bytes]
    stages: dict[str, dict[str, float]]
    terms: Terms


def connect(state_dir: str) -> sqlite3.Connection:
    """A connection that cannot write."""
    return state_folder.connect(os.path.join(state_dir, CATALOGUE), "ro")


def read_snapshot(connection: sqlite3.Connection, paths: Iterable[bytes] | None = None) -> Snapshot:
    """All names, or those of `paths` that are in view."""
    connection.execute("BEGIN")
    try:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if paths is None:
            names = list(map(Name._make, connection.execute(f"{_NAMES} ORDER BY path")))
            layouts = dict(connection.execute("SELECT id, signature FROM layouts"))
        else:
            names = [name for path in sorted(set(paths)) for name in _name(connection, path)]
            layouts = dict(
                layout
                for number in {name.layout for name in names}
                for layout in connection.execute("SELECT id, signature FROM layouts WHERE id = ?", (number,))
            )
    finally:
        connection.execute("COMMIT")
    stages = msgspec.json.decode(meta.get("statistics", b"{}"))
    terms = _TERMS.decode(meta[TERMS]) if TERMS in meta else Terms()
    return Snapshot(int(meta.get("generation", 0)), bool(meta.get("complete")), names, layouts, stages, terms)


def _name(connection: sqlite3.Connection, path: bytes) -> Iterable[Name]:
    return map(Name._make, connection.execute(f"{_NAMES} AND path = ?", (path,)))


def read_terms(db: sqlite3.Connection) -> Terms:
    """The terms that the present generation goes by."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (TERMS,)).fetchone()
    return _TERMS.decode(row[0]) if row else Terms()


def names_in_sets(db: sqlite3.Connection) -> list[Name]:
    """All that can be in a set: duplicates, and files with several names."""
    return list(map(Name._make, db.execute(_IN_SETS)))


def names_in_sets_with(db: sqlite3.Connection, paths: Iterable[bytes]) -> list[Name]:
    """The names of these paths' files, and all that are in a set with them."""
    names: dict[bytes, Name] = {}
    for path in paths:
        if path not in names:
            found = db.execute("SELECT file FROM names WHERE active = 1 AND path = ?", (path,)).fetchone()
            if found is not None:
                names.update((name.path, name) for name in map(Name._make, db.execute(_SET_OF, found)))
    return list(names.values())


def names_under(db: sqlite3.Connection, folders: Iterable[bytes]) -> list[bytes]:
    """All names in view in these folders, at any depth."""
    query = "SELECT path FROM names WHERE active = 1 AND path > ? AND path < ?"
    ranges = ((folder + b"/", folder + b"0") for folder in folders)
    return [path for between in ranges for (path,) in db.execute(query, between)]


def weights_at(db: sqlite3.Connection, paths: Iterable[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
    """The signatures of the layout and the weights that names in view lead to, of those that are known."""
    query = (
        "SELECT layouts.signature, files.weights FROM names JOIN files ON files.id = names.file "
        "JOIN layouts ON layouts.id = files.layout WHERE active = 1 AND path = ? AND files.weights IS NOT NULL"
    )
    found = ((path, db.execute(query, (path,)).fetchone()) for path in paths)
    return {path: (bytes(row[0]), bytes(row[1])) for path, row in found if row is not None}


def holding(db: sqlite3.Connection, layout: bytes, weights: bytes) -> list[tuple[bytes, Identity]]:
    """Names in view that lead to these weights, by the signature of their layout and their own."""
    rows = db.execute(
        "SELECT path, dev, ino, size, mtime_ns, ctime_ns FROM files JOIN names ON names.file = files.id "
        "JOIN layouts ON layouts.id = files.layout "
        "WHERE files.weights = ? AND layouts.signature = ? AND active = 1 ORDER BY path",
        (weights, layout),
    )
    return [(path, Identity.of_stored(*numbers)) for path, *numbers in rows]


def of_layout(db: sqlite3.Connection, layout: bytes, most: int) -> list[tuple[bytes, Identity]]:
    """Some names in view of a layout whose weights are not known: they may hold any."""
    rows = db.execute(
        "SELECT path, dev, ino, size, mtime_ns, ctime_ns FROM layouts JOIN files ON files.layout = layouts.id "
        "JOIN names ON names.file = files.id "
        "WHERE layouts.signature = ? AND files.weights IS NULL AND active = 1 ORDER BY files.id DESC LIMIT ?",
        (layout, most),
    )
    return [(path, Identity.of_stored(*numbers)) for path, *numbers in rows]


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
        """The file that one of its names tells of; `configs` is what the configuration beside a name says."""
        paths = tuple(sorted(names))
        links: tuple[bytes, ...] = ()
        if self._leads_through:
            links = tuple(filter(self._leads_through, paths))
            paths = tuple(path for path in paths if path not in links)
        device, volatile = file.dev % 2**64, False
        read_only: list[tuple[bytes, bytes]] = []
        if not self._finder.plain and paths:
            volatile = self._finder.volatile(paths[0])
            places = ((path, self._finder.read_only(path, device)) for path in paths)
            read_only = [(path, place) for path, place in places if place is not None]
        return Copy(
            paths,
            device,
            file.ino % 2**64,
            file.size,
            file.mtime_ns,
            file.ctime_ns,
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
    """Whether a name is a symbolic link. What cannot be looked at is left to whoever acts on it."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False
