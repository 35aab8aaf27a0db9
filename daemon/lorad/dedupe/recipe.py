"""How to rebuild a file byte for byte from another one that holds the same layers.

A recipe lists the file's bytes from begin to end as segments: a range of the kept file, or literal bytes, which
the recipe holds itself. Format: the magic; eight bytes with the length of what follows, little-endian; MessagePack
of `Recipe`; all literal bytes as one zlib stream.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator

import msgspec
from blake3 import blake3

from loracore.errors import FileError
from lorad.dedupe.compare import PIECE, Layers, pieces
from lorad.dedupe.journal import sync_folder
from lorad.dedupe.orders import Progress

_MAGIC = b"loradrecipe\x00\x00\x00\x00\x01"
_LENGTH = struct.Struct("<Q")
#: A recipe whose literal bytes are more than this part of the file saves too little.
_LITERAL_PART = 4
#: Or than this many: metadata, a pickle, and padding are never that long.
_LITERAL_BYTES = 64 << 20
_MAX_BODY = 64 << 20
_LITERAL = -1


class Unfit(Exception):
    """There is no recipe for these two files that would be worth it; the message says why."""


class Recipe(msgspec.Struct, frozen=True):
    """`segments`: (offset in the kept file, or -1 for literal bytes, length). `digest`: BLAKE3-256 of all."""

    size: int
    digest: bytes
    segments: tuple[tuple[int, int], ...]


def write(path: str, kept: Layers, gone: Layers, digest: bytes) -> int:
    """Write the recipe of `gone`, whose BLAKE3-256 is `digest`; returns its length once it is durable.

    Raises Unfit where it would hold too much of the file, and OSError.
    """
    try:
        segments = _segments(kept, gone)
    except FileError as error:
        raise Unfit(error.reason) from error
    size = gone.held.before.st_size
    literal = sum(length for offset, length in segments if offset == _LITERAL)
    if literal > min(_LITERAL_BYTES, max(PIECE, size // _LITERAL_PART)):
        raise Unfit(f"{literal} of its {size} bytes are not in the kept file in the same form")
    body = msgspec.msgpack.encode(Recipe(size, digest, tuple(segments)))
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(_MAGIC + _LENGTH.pack(len(body)) + body)
        packer = zlib.compressobj(9)
        position = 0
        for offset, length in segments:
            if offset == _LITERAL:
                for piece in pieces(gone.held.fd, position, length):
                    file.write(packer.compress(piece))
            position += length
        file.write(packer.flush())
        file.flush()
        os.fsync(file.fileno())
        written = file.tell()
    for folder in (os.path.dirname(path), os.path.dirname(os.path.dirname(path))):
        sync_folder(folder)
    return written


def rebuild(path: str, kept: int) -> Iterator[bytes]:
    """The bytes of the file that the recipe is of, in pieces of at most 1 MiB.

    Raises EOFError where the kept file is shorter than it was, ValueError for a damaged recipe, OSError.
    """
    with open(path, "rb") as file:
        recipe = _read(file.read(len(_MAGIC) + _LENGTH.size), file.read)
        unpacker = zlib.decompressobj()

        def literal(length: int) -> bytes:
            parts = []
            while length:
                try:
                    part = unpacker.decompress(unpacker.unconsumed_tail or file.read(PIECE), length)
                except zlib.error as error:
                    raise ValueError("its literal bytes are damaged") from error
                if not part and unpacker.eof:
                    raise ValueError("its literal bytes are cut off")
                if not part and not unpacker.unconsumed_tail and not file.peek(1):
                    raise ValueError("its literal bytes are cut off")
                parts.append(part)
                length -= len(part)
            return b"".join(parts)

        for offset, length in recipe.segments:
            if offset == _LITERAL:
                for start in range(0, length, PIECE):
                    yield literal(min(PIECE, length - start))
            else:
                yield from pieces(kept, offset, length)


def rehearse(path: str, kept: Layers, gone: Layers, digest: bytes, progress: Progress) -> None:
    """Rebuild the file without writing it, and compare every byte. Raises Unfit where it is not the same."""
    size = gone.held.before.st_size
    hasher = blake3()
    position = 0
    try:
        for piece in rebuild(path, kept.held.fd):
            hasher.update(piece)
            if os.pread(gone.held.fd, len(piece), position) != piece:
                raise Unfit(f"rebuilt, it differs after byte {position}")
            position += len(piece)
            progress(position, size)
    except (ValueError, EOFError) as error:
        raise Unfit(f"it could not be rebuilt: {error}") from error
    if position != size or hasher.digest() != digest:
        raise Unfit("rebuilt, it is another file")


def drop(path: str) -> None:
    """Remove a recipe that is there no more need for, if there is one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    sync_folder(os.path.dirname(path))


def _segments(kept: Layers, gone: Layers) -> list[tuple[int, int]]:
    """The whole file as ranges of layers of the kept one, and literal bytes between them."""
    sizes = gone.container.layout.sizes
    plain = [
        index
        for index, size in enumerate(sizes)
        if size and not gone.is_strided(index) and not kept.is_strided(index)
    ]
    ranges = sorted((gone.place(index), sizes[index], kept.place(index)) for index in plain)
    segments: list[tuple[int, int]] = []
    position = 0
    for start, length, offset in [*ranges, (gone.held.before.st_size, 0, 0)]:
        if start > position:
            _append(segments, _LITERAL, start - position)
            position = start
        # Two layers can lie in the same bytes (tied weights).
        skip = position - start
        if length > skip:
            _append(segments, offset + skip, length - skip)
            position = start + length
    return segments


def _append(segments: list[tuple[int, int]], offset: int, length: int) -> None:
    """Add a segment, joined with the last one where it goes on with it."""
    if segments and offset != _LITERAL and segments[-1][0] != _LITERAL and sum(segments[-1]) == offset:
        segments[-1] = (segments[-1][0], segments[-1][1] + length)
    else:
        segments.append((offset, length))


def _read(head: bytes, read: object) -> Recipe:
    if len(head) != len(_MAGIC) + _LENGTH.size or not head.startswith(_MAGIC):
        raise ValueError("it is not a recipe of this version of lorad")
    (length,) = _LENGTH.unpack(head[len(_MAGIC) :])
    if length > _MAX_BODY:
        raise ValueError("it is damaged")
    assert callable(read)
    try:
        return msgspec.msgpack.decode(read(length), type=Recipe)
    except msgspec.DecodeError as error:
        raise ValueError("it is damaged") from error
