"""The views said in the plainest way, from all names at once, to judge the publisher by."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from lorad.publish.model import Model
from lorad.publish.render import render
from lorad.publish.snapshot import Snapshot, connect, find_duplicates, read_snapshot
from lorad.publish.views import VIEWS

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
            "functions": {os.fsdecode(path): "differs" for path in found.differing},
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
