"""What `find` found, as people read it: by which hashes, under the names that they are known by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from loracore.control import Match

_LABELS = {
    "sha256": "SHA256",
    "autov1": "AutoV1",
    "autov2": "AutoV2",
    "autov3": "AutoV3",
    "blake3": "BLAKE3",
    "crc32": "CRC32",
}


def label(kind: str) -> str:
    return _LABELS.get(kind, kind)


def folded(matches: Iterable[Match]) -> Iterator[tuple[str, str, bytes]]:
    """(kinds, hash, path): a hash that begins another one of its file is told in one row with that."""
    by_path: dict[bytes, dict[str, list[str]]] = defaultdict(dict)
    for match in sorted(matches, key=lambda match: (-len(match.hash), match.kind)):
        hashes = by_path[match.path]
        longest = next((hash for hash in hashes if hash.startswith(match.hash)), match.hash)
        hashes.setdefault(longest, []).append(label(match.kind))
    rows = [(", ".join(kinds), hash, path) for path, hashes in by_path.items() for hash, kinds in hashes.items()]
    yield from sorted(rows)
