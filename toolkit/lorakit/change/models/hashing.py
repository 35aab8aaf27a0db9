"""By what the files of a model are known again: BLAKE3 of all their bytes.

SHA-256, as LoRAs are looked up by, would cost a model's files a multiple of the time that reading them takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from blake3 import blake3

from loracore.errors import FileError
from loracore.jobs.frame import Context
from loracore.paths import shown
from loracore.tensorfile import Source

#: Bytes that are read at once: enough for several threads of BLAKE3.
_PIECE = 1 << 24


class Hashed(NamedTuple):
    """A file's name as it is told, and its hash in hex."""

    name: str
    blake3: str


def hashed(
    model: bytes, files: Sequence[tuple[bytes, Source]], context: Context, told: Callable[[int], object]
) -> tuple[Hashed, ...]:
    """Of each (path, open file) of a model; `told` hears of bytes that are done. Raises FileError."""
    buffer = memoryview(bytearray(min(_PIECE, max((source.size for _, source in files), default=0))))
    return tuple(
        Hashed(_name(model, path), _digest(path, source, buffer, context, told)) for path, source in files
    )


def _digest(
    path: bytes, source: Source, buffer: memoryview, context: Context, told: Callable[[int], object]
) -> str:
    digest = blake3(max_threads=max(1, context.threads))
    try:
        for start in range(0, source.size, _PIECE):
            piece = buffer[: min(_PIECE, source.size - start)]
            source.read_into(piece, start)
            digest.update(piece)
            told(len(piece))
    except FileError as error:
        error.path = os.fsdecode(path)
        raise
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}", os.fsdecode(path)) from error
    return digest.hexdigest()


def _name(model: bytes, path: bytes) -> str:
    """The model's own name, and for a folder the file's below it."""
    top = os.path.basename(os.path.normpath(model))
    return shown(os.path.normpath(os.path.join(top, os.path.relpath(path, model))))
