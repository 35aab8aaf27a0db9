"""The identity hashes of SPEC section 6, as the catalogue has them: those that begin others are not kept twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from loracore.jobs.hashes import HashesResult


class Identified(NamedTuple):
    """A row of the table `hashes`, without its file. `model` is `sshs_model_hash`, `legacy` `sshs_legacy_hash`."""

    sha256: bytes | None = None
    autov1: bytes | None = None
    model: bytes | None = None
    legacy: bytes | None = None
    blake3: bytes | None = None
    crc32: bytes | None = None
    error: str | None = None
    deaths: int = 0

    @classmethod
    def of(cls, result: HashesResult) -> Identified:
        return cls(
            bytes.fromhex(result.sha256),
            _bytes(result.autov1),
            _bytes(result.sshs_model_hash),
            _bytes(result.sshs_legacy_hash),
            bytes.fromhex(result.blake3),
            bytes.fromhex(result.crc32),
        )


class Kind(NamedTuple):
    """A hash by its name in `HashesResult`: the first `length` bytes of a column."""

    name: str
    column: str
    length: int


KINDS = (
    Kind("sha256", "sha256", 32),
    Kind("autov1", "autov1", 4),
    Kind("autov2", "sha256", 5),
    Kind("autov3", "model", 6),
    Kind("sshs_model_hash", "model", 32),
    Kind("sshs_legacy_hash", "legacy", 4),
    Kind("blake3", "blake3", 32),
    Kind("crc32", "crc32", 4),
)
#: The hashes alone, in the order of `Identified`.
COLUMNS = Identified._fields[:6]


def hexadecimal(values: Sequence[bytes | None]) -> dict[str, str]:
    """The hashes that there are, by name, from a row of `COLUMNS`."""
    row = dict(zip(COLUMNS, values, strict=True))
    return {kind.name: value[: kind.length].hex() for kind in KINDS if (value := row[kind.column]) is not None}


def _bytes(value: str | None) -> bytes | None:
    return bytes.fromhex(value) if value is not None else None
