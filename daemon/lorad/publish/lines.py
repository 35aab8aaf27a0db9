"""How paths, signatures and what is known of a file stand in the JSON files."""

from __future__ import annotations

import json
import os

import msgspec

from lorad.publish.duplicates import File

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
