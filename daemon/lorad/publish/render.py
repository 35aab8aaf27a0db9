"""The five JSON files (SPEC section 3) of a model's generation, and how paths and files stand in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import msgspec

from loracore.identity import bounded
from loracore.time import now_text
from lorad.publish.duplicates import File
from lorad.publish.model import Model
from lorad.state_folder import FORMAT, VIEWS

encode = msgspec.json.encode


class _Row(msgspec.Struct):
    """A file in `processed.json`."""

    size: int
    mtime_ns: int
    layout: str | None
    status: str
    load_seconds: float
    error: str | None


def text(path: bytes) -> bytes:
    """A path as a JSON string. Bytes that are not UTF-8 become lone surrogates, as `os.fsdecode` has them."""
    try:
        return encode(path.decode())
    except UnicodeDecodeError:
        return json.dumps(os.fsdecode(path)).encode()


def signature(digest: bytes) -> bytes:
    return b'"%b"' % digest.hex().encode()


def processed_line(path: bytes, file: File) -> bytes:
    facts = file.facts
    row = _Row(
        facts.size,
        facts.mtime_ns,
        file.layout.hex() if file.layout is not None else None,
        "duplicate" if facts.status == "unique" and file.linked else facts.status,
        round(facts.load_seconds, 6),
        facts.error,
    )
    return text(path) + b": " + encode(row)


def word_line(path: bytes, word: str) -> bytes:
    """A level, or how a function compares."""
    return text(path) + b": " + encode(word)


def links_line(path: bytes, file: File) -> bytes:
    others = b", ".join([text(other) for other in file.names if other != path])
    return text(path) + b": [" + others + b"]"


def render(model: Model) -> Iterator[tuple[str, list[bytes]]]:
    """(name, content in parts) of all five, in their order."""
    head = f'{{"format": {FORMAT}, "generation": {model.generation}, "updated": "{now_text()}", '.encode()
    bodies = (
        _processed(model),
        _object("groups", model.groups.parts(text, signature)),
        _object("refined_groups", model.refined_groups.parts(text, signature)),
        _duplicates(model),
        _statistics(model),
    )
    for name, body in zip(VIEWS, bodies, strict=True):
        yield name, [head, *body, b"}\n"]


def _object(name: str, parts: Iterator[bytes]) -> Iterator[bytes]:
    """`"name": {…}`, an entry a line."""
    yield f'"{name}": {{'.encode()
    yield from parts
    yield b"}"


def _processed(model: Model) -> Iterator[bytes]:
    total = model.files_total
    processed = total - model.counts["pending"] - model.counts["grouped"]
    progress = {
        "files_total": total,
        "files_processed": processed,
        "percent": round(100 * processed / total, 2) if total else 100.0,
        "bytes_total": bounded(model.bytes_total),
        "bytes_read": _bytes_read(model),
    }
    yield b'"progress": ' + encode(progress) + b",\n"
    yield from _object("files", model.processed.parts(lambda path: processed_line(path, model.names[path])))


def _duplicates(model: Model) -> Iterator[bytes]:
    yield b'"complete": ' + encode(model.complete)
    yield b', "wasted_bytes": %d,\n' % bounded(model.wasted_bytes)
    yield from _object("duplicates", model.duplicates.parts(text, text))
    yield b",\n"
    yield from _object("levels", model.levels.parts(lambda path: word_line(path, model.level[path])))
    yield b",\n"
    yield from _object("links", model.links.parts(lambda path: links_line(path, model.names[path])))
    yield b",\n"
    yield from _object("functions", model.functions.parts(lambda path: word_line(path, "differs")))


def _statistics(model: Model) -> Iterator[bytes]:
    stages = {
        name: {
            **stage,
            "seconds": round(stage["seconds"], 6),
            "mb_per_s": round(stage["bytes"] / stage["seconds"] / 1e6, 2) if stage["seconds"] else None,
        }
        for name, stage in model.stages.items()
    }
    statuses = ("pending", "grouped", "unique", "duplicate", "failed", "ignored")
    body = {
        "stages": stages,
        "groups": model.layouts,
        "duplicate_sets": model.duplicate_sets,
        "wasted_bytes": bounded(model.wasted_bytes),
        "totals": {
            "files": model.files_total,
            **{status: model.counts[status] for status in statuses},
            "bytes_total": bounded(model.bytes_total),
            "bytes_read": _bytes_read(model),
        },
    }
    yield encode(body)[1:-1]


def _bytes_read(model: Model) -> int:
    return int(sum(stage["bytes"] for stage in model.stages.values()))
