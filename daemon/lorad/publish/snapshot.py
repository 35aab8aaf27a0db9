"""One generation of the catalogue, or what changed in it, read in one transaction as the views need it."""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from loracore.paths import CATALOGUE
from lorad import database
from lorad.blocks.room import Room

#: The columns of `Name`, of all names in view.
NAMES = (
    "SELECT path, file, size, mtime_ns, layout, status, load_seconds, error, signature, residue, extents, "
    "function, config "
    "FROM names JOIN files ON files.id = names.file WHERE active = 1"
)


class Name(NamedTuple):
    """One name of a file, with what the views show of the file; `config` is of the name itself."""

    path: bytes
    file: int
    size: int
    mtime_ns: int
    layout: int | None
    status: str
    load_seconds: float
    error: str | None
    signature: bytes | None
    residue: bytes | None
    extents: bytes | None
    function: bytes | None
    config: bytes | None


class Snapshot(NamedTuple):
    """Names in view, sorted by path; each layout's signature; what stages cost; the generation.

    `names` are all names, or those of the paths that were asked for.
    """

    generation: int
    complete: bool
    names: list[Name]
    layouts: dict[int, bytes]
    stages: dict[str, dict[str, float]]


class Duplicates(NamedTuple):
    """Sets of the same weights: the kept path, the others with their level, and other names of an inode.

    `differing` are those of another function than the kept one.
    """

    sets: dict[bytes, list[bytes]]
    levels: dict[bytes, str]
    links: dict[bytes, list[bytes]]
    differing: set[bytes]
    wasted_bytes: int


def connect(state_dir: str) -> sqlite3.Connection:
    """A connection that cannot write."""
    return database.connect(os.path.join(state_dir, CATALOGUE), "ro")


def read_snapshot(connection: sqlite3.Connection, paths: Iterable[bytes] | None = None) -> Snapshot:
    """All names, or those of `paths` that are in view."""
    connection.execute("BEGIN")
    try:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if paths is None:
            names = list(map(Name._make, connection.execute(f"{NAMES} ORDER BY path")))
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
    return Snapshot(int(meta.get("generation", 0)), bool(meta.get("complete")), names, layouts, stages)


def _name(connection: sqlite3.Connection, path: bytes) -> Iterable[Name]:
    return map(Name._make, connection.execute(f"{NAMES} AND path = ?", (path,)))


def find_duplicates(snapshot: Snapshot) -> Duplicates:
    """The sets of levels `inode`, `file` and `tensors`.

    Kept is the oldest file (by mtime), then the one with the shortest path, then the first by name.
    """
    by_file: dict[int, list[Name]] = defaultdict(list)
    by_weights: dict[tuple[int | None, bytes | None], list[Name]] = defaultdict(list)
    for name in snapshot.names:
        if name.status in ("unique", "grouped", "duplicate"):
            by_file[name.file].append(name)
        if name.status == "duplicate":
            by_weights[name.layout, name.signature].append(name)
    sets = [names for names in by_weights.values() if len(names) > 1]
    sets += [names for names in by_file.values() if len(names) > 1 and names[0].status != "duplicate"]
    result: dict[bytes, list[bytes]] = {}
    levels: dict[bytes, str] = {}
    differing: set[bytes] = set()
    wasted = 0
    for names in sets:
        kept = min(names, key=lambda name: rank(name, name.path))
        others = [name for name in names if name is not kept]
        result[kept.path] = [name.path for name in others]
        levels.update((name.path, level(name, kept)) for name in others)
        differing.update(name.path for name in others if differs(name, kept))
        wasted += sum(own_bytes(staying(kept, others), others))
    links = {
        name.path: [other.path for other in names if other is not name]
        for names in by_file.values()
        if len(names) > 1
        for name in names
    }
    return Duplicates(dict(sorted(result.items())), levels, dict(sorted(links.items())), differing, wasted)


def differs(name: Name, kept: Name) -> bool:
    """Whether a file of the same tensors has another function, by its header or by the configuration beside it."""
    return (name.function, name.config) != (kept.function, kept.config)


def staying(kept: Name, others: Iterable[Name]) -> list[Name]:
    """The kept one, and those that waste nothing: of another function, if only under one of their names."""
    return [kept, *(other for other in others if differs(other, kept))]


def own_bytes(stay: Sequence[Name], others: Iterable[Name]) -> Iterator[int]:
    """What each of these takes of the disk beside what stays and those before it: each inode and block once."""
    room, seen = Room(), {name.file for name in stay}
    for name in stay:
        room.add(name.size, name.extents)
    for other in others:
        yield 0 if other.file in seen else room.add(other.size, other.extents)
        seen.add(other.file)


def rank(facts: Name, path: bytes) -> tuple[int, int, bytes]:
    """The least of a set is kept, by this."""
    return facts.mtime_ns, len(path), path


def level(name: Name, kept: Name) -> str:
    """The closest sameness of a file to the kept one, with which it agrees on every layer."""
    if name.file == kept.file:
        return "inode"
    same_rest = name.residue is not None and name.residue == kept.residue and name.size == kept.size
    return "file" if same_rest else "tensors"
