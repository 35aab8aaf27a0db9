"""Files by the beginning of a hash that the catalogue holds of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from lorad.catalog.hashes import KINDS
from lorad.catalog.views import IS_TOLD, names_of, sequences

_DIGEST = 32


class Hit(NamedTuple):
    """A file with a hash that begins as asked. Sorted by kind, then hash, then path."""

    kind: str
    hash: bytes
    path: bytes


def search(db: sqlite3.Connection, prefix: str) -> Iterator[Hit]:
    """All that identity hashes, layout and weight signatures tell, in no order; where nothing, layer digests.

    `prefix` is of lower-case hex digits, at most 64. Layer digests are looked for in all that files answered,
    which takes about as long as reading those from the disk.
    """
    hits = [*_identities(db, prefix), *_signatures(db, prefix)]
    yield from hits
    if not hits:
        for file, digests in _layers(db, prefix).items():
            for path in names_of(db, file):
                yield from (Hit("layer", digest, path) for digest in digests)


def _identities(db: sqlite3.Connection, prefix: str) -> Iterator[Hit]:
    for kind in KINDS:
        if len(prefix) > 2 * kind.length:
            continue
        # A hash that begins others is no longer than what it begins: what is above it there does not matter.
        low, high = bytes.fromhex(prefix + "0" * (len(prefix) % 2)), bytes.fromhex(prefix.ljust(2 * _DIGEST, "f"))
        query = (
            f"SELECT substr(hashes.{kind.column}, 1, {kind.length}), path FROM hashes "
            "JOIN files ON files.id = hashes.file JOIN names ON names.file = files.id "
            f"WHERE {IS_TOLD} AND hashes.{kind.column} BETWEEN ? AND ?"
        )
        yield from (Hit(kind.name, *row) for row in db.execute(query, (low, high)))


def _signatures(db: sqlite3.Connection, prefix: str) -> Iterator[Hit]:
    low, high = bytes.fromhex(prefix.ljust(2 * _DIGEST, "0")), bytes.fromhex(prefix.ljust(2 * _DIGEST, "f"))
    yield from (
        Hit("layout", *row)
        for row in db.execute(
            "SELECT layouts.signature, path FROM layouts JOIN files ON files.layout = layouts.id "
            f"JOIN names ON names.file = files.id WHERE {IS_TOLD} AND layouts.signature BETWEEN ? AND ?",
            (low, high),
        )
    )
    yield from (
        Hit("weights", *row)
        for row in db.execute(
            "SELECT files.signature, path FROM files JOIN names ON names.file = files.id "
            f"WHERE {IS_TOLD} AND files.signature BETWEEN ? AND ?",
            (low, high),
        )
    )


def _layers(db: sqlite3.Connection, prefix: str) -> dict[int, set[bytes]]:
    """The matching digests of whole layers, by file."""
    found: dict[int, set[bytes]] = {}
    whole_bytes = bytes.fromhex(prefix[: len(prefix) // 2 * 2])
    for layout, sequence, _ in list(sequences(db)):
        confirming = [question.number for question in sequence if question.confirms]
        marks = ", ".join("?" * len(confirming))
        rows = db.execute(
            "SELECT file, digests FROM answers JOIN files ON files.id = answers.file "
            f"WHERE layout = ? AND number IN ({marks}) AND instr(digests, ?)",
            (layout, *confirming, whole_bytes),
        )
        for file, digests in rows:
            starts = range(0, len(digests), _DIGEST)
            matching = {digests[start : start + _DIGEST] for start in starts if _begins(digests, start, prefix)}
            if matching:
                found.setdefault(file, set()).update(matching)
    return found


def _begins(digests: bytes, start: int, prefix: str) -> bool:
    return digests[start : start + (len(prefix) + 1) // 2].hex().startswith(prefix)
