"""All identity hashes of a file, in one read of it (SPEC section 6).

SHA-256 runs over the file and, for safetensors, over all behind its header; these two streams have nothing in
common and take a core each. The others are so much quicker that they fit in beside them.
"""

from __future__ import annotations

import os
import zlib
from hashlib import sha256

from blake3 import blake3

from loracore.errors import ChangedFile, UnknownFormat, UnsafePickle
from loracore.identity import Identity
from loracore.jobs.hashes import SPEC, HashesParameters, HashesResult
from loracore.jobs.job import Context
from loracore.tensorfile import Container, Source, open_regular, read_container
from loracore.tensorfile.peft import weight_file
from lorakit.filehash.legacy import LENGTH, START, LegacyHash
from lorakit.filehash.shared_read import Excerpt, Lane, Piece, behind, read_once


def run(parameters: HashesParameters, context: Context) -> HashesResult:
    """Hash a file of any kind; a container that a reader knows must be sound.

    Raises:
        FileError: it cannot be read, is damaged, or changed meanwhile; the error names it.
    """
    path = parameters.path
    if os.path.isdir(path):
        path = weight_file(path) or path
    # A link is followed: whoever names a file here wants what it leads to.
    with open_regular(os.path.realpath(path)) as source:
        before = os.fstat(source.fd)
        if parameters.identity not in (None, Identity.of(before)):
            raise ChangedFile("it is not the file that was asked for; ask again")
        result = _hash(source, path, context)
        after = os.fstat(source.fd)
        if Identity.of(before) != Identity.of(after) or not _still_there(path, after):
            raise ChangedFile("it changed while it was read; try again when it is complete")
    return result


JOB = SPEC.implemented(run)


def _hash(source: Source, path: bytes, context: Context) -> HashesResult:
    container = _container(source, path)
    whole, fast, crc = sha256(), blake3(), _Crc32()
    first = Excerpt(LENGTH, [Piece(START, LENGTH, 0)]) if source.size >= START + LENGTH else None
    # The slowest first: they are what the others wait for.
    lanes: list[Lane] = [whole.update]
    data, legacy = sha256(), None
    if container is not None:
        legacy = LegacyHash(container)
        lanes += [behind(container.base, data.update), legacy.excerpt.feed]
    lanes += [crc.update, fast.update]
    if first is not None:
        lanes.append(first.feed)
    context.progress(0, source.size)
    read_once(source, lanes, context.threads, lambda done: context.progress(done, source.size))
    model = data.hexdigest() if container is not None else None
    return HashesResult(
        path=path,
        size=source.size,
        sha256=whole.hexdigest(),
        autov1=sha256(first.data).hexdigest()[:8] if first is not None else None,
        autov2=whole.hexdigest()[:10],
        autov3=model[:12] if model is not None else None,
        sshs_model_hash=model,
        sshs_legacy_hash=legacy.hexdigest() if legacy is not None else None,
        blake3=fast.hexdigest(),
        crc32=f"{crc.value:08x}",
        warnings=_warnings(container, model),
    )


def _container(source: Source, path: bytes) -> Container | None:
    """The header, of safetensors alone."""
    try:
        container = read_container(source, path)
    except (UnknownFormat, UnsafePickle):
        # Nothing of it is loaded here; those who ask what it is need its hashes.
        return None
    return container if container.format == "safetensors" else None


class _Crc32:
    """CRC-32 as zip and PNG have it."""

    def __init__(self) -> None:
        self.value = 0

    def update(self, block: memoryview) -> None:
        self.value = zlib.crc32(block, self.value)


def _warnings(container: Container | None, model: str | None) -> tuple[str, ...]:
    stated = container.metadata.get("sshs_model_hash", "") if container is not None else ""
    if stated in ("", "None") or stated.lower().removeprefix("0x") == model:
        return ()
    return (f"its header states sshs_model_hash {stated[:64]!r}, not that of its tensors: they changed later",)


def _still_there(path: bytes, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except OSError:
        return False
