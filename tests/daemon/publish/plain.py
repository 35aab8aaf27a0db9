"""The views said in the plainest way, from all names at once, to judge the publisher by."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lorad.blocks.usage import unpacked
from lorad.catalog.duplicates import Copies
from lorad.catalog.views import Name, Snapshot, connect, read_snapshot
from lorad.library.keepers import Copy, choose
from lorad.publish.model import Model
from lorad.publish.render import render
from lorad.state_folder import VIEWS

_TOLD = ("grouped", "unique", "duplicate")
_STATUSES = ("pending", "grouped", "unique", "duplicate", "failed", "ignored")


def snapshot_of(state: Path) -> Snapshot:
    connection = connect(str(state))
    try:
        return read_snapshot(connection)
    finally:
        connection.close()


def written(state: Path) -> dict[str, bytes]:
    """The files on the disk, without the moment at which they were written."""
    return {name: _timeless((state / name).read_bytes()) for name in VIEWS}


def rendered_anew(state: Path) -> dict[str, bytes]:
    """What the files would be if all was read and rendered now."""
    model = Model()
    model.update(snapshot_of(state), ())
    return {name: _timeless(b"".join(parts)) for name, parts in render(model)}


def _timeless(content: bytes) -> bytes:
    return re.sub(rb'"updated": "[^"]*"', b"", content, count=1)


class Found(NamedTuple):
    """`sets`: by kept path the others, sorted; `links`: by path the other names of its inode."""

    sets: dict[bytes, list[bytes]]
    levels: dict[bytes, str]
    links: dict[bytes, list[bytes]]
    functions: dict[bytes, str]
    wasted_bytes: int


def find_duplicates(snapshot: Snapshot) -> Found:
    """The sets of the same weights, and of names of one inode."""
    files: dict[int, list[Name]] = defaultdict(list)
    for name in snapshot.names:
        if name.status in _TOLD:
            files[name.file].append(name)
    sets: dict[object, list[list[Name]]] = defaultdict(list)
    for file, names in files.items():
        weights = (names[0].layout, names[0].signature)
        sets[weights if names[0].status == "duplicate" else file].append(names)
    found = Found({}, {}, {}, {}, 0)
    wasted = 0
    for members in sets.values():
        if sum(map(len, members)) > 1:
            wasted += _add_set(found, members, snapshot)
    links = {
        name.path: [other.path for other in names if other is not name]
        for names in files.values()
        if len(names) > 1
        for name in names
    }
    return found._replace(
        sets=dict(sorted(found.sets.items())), links=dict(sorted(links.items())), wasted_bytes=wasted
    )


def _add_set(found: Found, members: list[list[Name]], snapshot: Snapshot) -> int:
    """Put a set among what was found; the bytes that it wastes."""
    terms = snapshot.terms
    copies = Copies(terms.storage, follow=False).set_of(members)
    kept, kept_path, _ = choose(copies, terms.rules)
    (kept_name,) = [name for names in members for name in names if name.path == kept_path]
    found.sets[kept_path] = sorted(name.path for names in members for name in names if name is not kept_name)
    for names in members:
        content = names[0].size, names[0].residue
        same = content[1] is not None and content == (kept_name.size, kept_name.residue)
        level = "inode" if names[0].file == kept_name.file else "file" if same else "tensors"
        found.levels.update({name.path: level for name in names if name is not kept_name})
        function = kept_name.function, kept_name.config
        others = [name.path for name in names if (name.function, name.config) != function]
        found.functions.update(dict.fromkeys(others, "differs"))
    staying = [copy for copy in copies if copy is kept or not found.functions.keys().isdisjoint(copy.paths)]
    return taken(copies) - taken(staying)


def taken(copies: Iterable[Copy]) -> int:
    """What files take of the disk, byte for byte. Those of whose places a digest is kept share all or nothing."""
    held: set[object] = set()
    for copy in copies:
        if copy.extents is None:
            held |= {(copy.paths, byte) for byte in range(copy.size)}
        elif copy.extents.startswith(b"d"):
            held |= {(copy.extents, byte) for byte in range(int.from_bytes(copy.extents[1:9], sys.byteorder))}
        else:
            for start, length, distance in unpacked(copy.extents):
                held |= {(distance, byte) for byte in range(start, start + length)}
    return len(held)


def plainly(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Each file as an object."""
    found = find_duplicates(snapshot)
    groups, refined = defaultdict(list), defaultdict(list)
    rows, sizes = {}, {}
    for name in snapshot.names:
        layout = snapshot.layouts[name.layout].hex() if name.layout is not None else None
        linked = name.status == "unique" and name.path in found.links
        rows[os.fsdecode(name.path)] = {
            "size": name.size,
            "mtime_ns": name.mtime_ns,
            "layout": layout,
            "status": "duplicate" if linked else name.status,
            "load_seconds": round(name.load_seconds, 6),
            "error": name.error,
        }
        if name.status in _TOLD and layout is not None:
            groups[layout].append(os.fsdecode(name.path))
        if name.status in _TOLD and name.signature is not None:
            refined[name.signature.hex()].append(os.fsdecode(name.path))
        if name.status != "ignored":
            sizes[name.file] = name.size
    counts = Counter(name.status for name in snapshot.names)
    total = len(snapshot.names)
    processed = total - counts["pending"] - counts["grouped"]
    read = sum(stage["bytes"] for stage in snapshot.stages.values())
    bytes_ = {"bytes_total": sum(sizes.values()), "bytes_read": read}
    return {
        "processed.json": {
            "progress": {
                "files_total": total,
                "files_processed": processed,
                "percent": round(100 * processed / total, 2) if total else 100.0,
                **bytes_,
            },
            "files": rows,
        },
        "groups.json": {"groups": dict(groups)},
        "refined_groups.json": {"refined_groups": dict(refined)},
        "duplicates.json": {
            "complete": snapshot.complete,
            "wasted_bytes": found.wasted_bytes,
            "duplicates": _decoded(found.sets),
            "levels": {os.fsdecode(path): level for path, level in found.levels.items()},
            "links": _decoded(found.links),
            "functions": {os.fsdecode(path): word for path, word in found.functions.items()},
        },
        "statistics.json": {
            "stages": {name: {**stage, "mb_per_s": None} for name, stage in snapshot.stages.items()},
            "groups": len(groups),
            "duplicate_sets": len(found.sets),
            "wasted_bytes": found.wasted_bytes,
            "totals": {"files": total, **{status: counts[status] for status in _STATUSES}, **bytes_},
        },
    }


def _decoded(lists: dict[bytes, list[bytes]]) -> dict[str, list[str]]:
    return {os.fsdecode(path): list(map(os.fsdecode, paths)) for path, paths in lists.items()}


def parsed(files: dict[str, bytes], generation: int) -> dict[str, dict[str, Any]]:
    """Each file as an object without its head, which must say this generation."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), "a key stands twice"
        return dict(pairs)

    objects = {}
    for name, content in files.items():
        # The moment of writing was cut out, and its comma is left.
        text = content.replace(b", , ", b", ", 1).decode()
        objects[name] = json.loads(text, object_pairs_hook=unique)
        assert objects[name].pop("format") == 1
        assert objects[name].pop("generation") == generation
    return objects
