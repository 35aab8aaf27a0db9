"""The five JSON files (SPEC section 3), rendered from a snapshot and replaced atomically, in their order."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from lorad.publish.snapshot import Duplicates, Name, Snapshot, find_duplicates

FORMAT = 1
_encode = msgspec.json.encode
#: Small writes are gathered to this size.
_BUFFER = 1 << 20


VIEWS = ("processed.json", "groups.json", "refined_groups.json", "duplicates.json", "statistics.json")
_HEAD = re.compile(rb'\{"format": %d, "generation": (\d+), ' % FORMAT)


def written_generation(folder: str) -> int:
    """The generation that all five files in `folder` are of; -1 if one is missing or of another."""
    generations = set()
    for name in VIEWS:
        try:
            with open(os.path.join(folder, name), "rb") as file:
                head = _HEAD.match(file.read(100))
        except OSError:
            return -1
        generations.add(int(head[1]) if head else -1)
    return generations.pop() if len(generations) == 1 else -1


def publish(snapshot: Snapshot, folder: str) -> None:
    """Write all five. `duplicates.json` never runs ahead of the files that it is read together with.

    Each file is whole at every moment and survives a power cut, in the old or the new version.
    """
    duplicates = find_duplicates(snapshot)
    bodies = (
        _processed(snapshot, duplicates),
        _map("groups", _groups(snapshot)),
        _map("refined_groups", _refined_groups(snapshot)),
        _duplicates(snapshot, duplicates),
        _statistics(snapshot, duplicates),
    )
    updated = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = f'{{"format": {FORMAT}, "generation": {snapshot.generation}, "updated": "{updated}", '
    for name, body in zip(VIEWS, bodies, strict=True):
        _replace(os.path.join(folder, name), head, body)


def _replace(path: str, head: str, body: Iterable[bytes]) -> None:
    """Temp file, sync, rename, sync of the folder. A killed one's temp file is written over by the next."""
    temporary = f"{path}.new"
    with open(temporary, "wb", buffering=_BUFFER) as file:
        file.write(head.encode())
        for part in body:
            file.write(part)
        file.write(b"}\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def text(path: bytes) -> bytes:
    """A path as a JSON string. Bytes that are not UTF-8 become lone surrogates, as `os.fsdecode` has them."""
    try:
        return _encode(path.decode())
    except UnicodeDecodeError:
        return json.dumps(os.fsdecode(path)).encode()


def _list(paths: Iterable[bytes]) -> bytes:
    return b"[" + b", ".join(map(text, paths)) + b"]"


def _map(name: str, entries: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """`"name": {key: value, …}`, an entry a line; keys and values come encoded."""
    yield f'"{name}": {{'.encode()
    separator = b"\n"
    for key, value in entries:
        yield separator + key + b": " + value
        separator = b",\n"
    yield b"}"


def _processed(snapshot: Snapshot, duplicates: Duplicates) -> Iterator[bytes]:
    total = len(snapshot.names)
    processed = sum(name.status not in ("pending", "grouped") for name in snapshot.names)
    progress = {
        "files_total": total,
        "files_processed": processed,
        "percent": round(100 * processed / total, 2) if total else 100.0,
        "bytes_total": _bytes_total(snapshot),
        "bytes_read": _bytes_read(snapshot),
    }
    yield b'"progress": ' + _encode(progress) + b",\n"
    yield from _map(
        "files", ((text(name.path), _processed_row(name, snapshot, duplicates)) for name in snapshot.names)
    )


def _processed_row(name: Name, snapshot: Snapshot, duplicates: Duplicates) -> bytes:
    linked = name.status == "unique" and name.path in duplicates.links
    return _encode(
        {
            "size": name.size,
            "mtime_ns": name.mtime_ns,
            "layout": snapshot.layouts[name.layout].hex() if name.layout is not None else None,
            "status": "duplicate" if linked else name.status,
            "load_seconds": round(name.load_seconds, 6),
            "error": name.error,
        }
    )


def _groups(snapshot: Snapshot) -> Iterator[tuple[bytes, bytes]]:
    groups: dict[bytes, list[bytes]] = defaultdict(list)
    for name in snapshot.names:
        if name.layout is not None and name.status in ("grouped", "unique", "duplicate"):
            groups[snapshot.layouts[name.layout]].append(name.path)
    for signature, paths in groups.items():
        yield b'"%s"' % signature.hex().encode(), _list(paths)


def _refined_groups(snapshot: Snapshot) -> Iterator[tuple[bytes, bytes]]:
    groups: dict[bytes, list[bytes]] = defaultdict(list)
    for name in snapshot.names:
        if name.signature is not None and name.status in ("grouped", "unique", "duplicate"):
            groups[name.signature].append(name.path)
    for signature, paths in groups.items():
        yield b'"%s"' % signature.hex().encode(), _list(paths)


def _duplicates(snapshot: Snapshot, duplicates: Duplicates) -> Iterator[bytes]:
    yield b'"complete": ' + (b"true" if snapshot.complete else b"false")
    yield b', "wasted_bytes": %d,\n' % duplicates.wasted_bytes
    yield from _map("duplicates", ((text(kept), _list(others)) for kept, others in duplicates.sets.items()))
    yield b",\n"
    yield from _map("levels", ((text(path), _encode(level)) for path, level in duplicates.levels.items()))
    yield b",\n"
    yield from _map("links", ((text(path), _list(others)) for path, others in duplicates.links.items()))


def _statistics(snapshot: Snapshot, duplicates: Duplicates) -> Iterator[bytes]:
    stages = {
        name: {
            **stage,
            "seconds": round(stage["seconds"], 6),
            "mb_per_s": round(stage["bytes"] / stage["seconds"] / 1e6, 2) if stage["seconds"] else None,
        }
        for name, stage in snapshot.stages.items()
    }
    grouped = {name.layout for name in snapshot.names if name.status in ("grouped", "unique", "duplicate")}
    counts = {
        status: sum(name.status == status for name in snapshot.names)
        for status in ("pending", "grouped", "unique", "duplicate", "failed", "ignored")
    }
    body = {
        "stages": stages,
        "groups": len(grouped),
        "duplicate_sets": len(duplicates.sets),
        "wasted_bytes": duplicates.wasted_bytes,
        "totals": {
            "files": len(snapshot.names),
            **counts,
            "bytes_total": _bytes_total(snapshot),
            "bytes_read": _bytes_read(snapshot),
        },
    }
    yield _encode(body)[1:-1]


def _bytes_total(snapshot: Snapshot) -> int:
    """Bytes of all files that are looked at, each inode once."""
    return sum({name.file: name.size for name in snapshot.names if name.status != "ignored"}.values())


def _bytes_read(snapshot: Snapshot) -> int:
    return int(sum(stage["bytes"] for stage in snapshot.stages.values()))
