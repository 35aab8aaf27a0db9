"""What the job `hashes` takes and gives: the identity hashes that people look models up by (SPEC section 6)."""

from __future__ import annotations

import msgspec

from loracore.identity import Identity
from loracore.jobs.job import Spec


class HashesParameters(msgspec.Struct, frozen=True):
    """`path`: a file, or a PEFT adapter folder, which counts through its weight file.

    `identity`: what it must be; None where any file there is meant.
    """

    path: bytes
    identity: Identity | None = None


class HashesResult(msgspec.Struct, frozen=True):
    """All hashes of a file, in lower-case hex; None where a hash is not defined for such a file.

    `autov1` needs a file of 0x110000 bytes. `autov3`, `sshs_model_hash` and `sshs_legacy_hash` are of safetensors
    alone. `sshs_legacy_hash` is kohya's value, which below 1 MiB is that of no bytes at all; None where it depends
    on the order that the writer's hash map happened to have. `warnings` tell where the header states another hash.
    """

    path: bytes
    size: int
    sha256: str
    autov1: str | None
    autov2: str
    autov3: str | None
    sshs_model_hash: str | None
    sshs_legacy_hash: str | None
    blake3: str
    crc32: str
    warnings: tuple[str, ...] = ()


SPEC = Spec(
    "hashes",
    HashesParameters,
    HashesResult,
    help="The hashes by which people look a file up.",
    short=True,
    place="lorakit.jobs.hashes.job:JOB",
)
