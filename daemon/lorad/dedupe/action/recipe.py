"""How to make a freed file anew, byte for byte, from any file that holds the same layers.

A recipe lists the file's bytes from begin to end as segments: a part of a layer, by its number in the layout, or
literal bytes, which the recipe holds itself. So it does not matter in which container, at which offsets or in
which order another file has these layers. It is MessagePack of `Recipe`, kept in the journal. Earlier versions
wrote files that name offsets in the kept file; `rebuild_old` reads those.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence

import msgspec
from blake3 import blake3

from lorad.dedupe.action.compare import PIECE, Layers, pieces
from lorad.dedupe.action.order import Differs, Progress, Raw

#: Literal bytes that are kept: metadata, a pickle, and padding are never that long.
_LITERAL_PART, _LITERAL_BYTES = 4, 64 << 20
#: What a recipe may take in the journal.
MOST = 16 << 20
_LITERAL = -1
_CHECK = 8
_OTHER = "its layers are not those of the file that was freed"
_OLD_MAGIC = b"loradrecipe\x00\x00\x00\x00\x01"
_OLD_LENGTH = struct.Struct("<Q")
_OLD_BODY = 64 << 20


class Unfit(Exception):
    """There is no recipe for these two files that would be worth it; the message says why."""


class UnfitAsDifferent(Unfit, Differs):
    """There is none, as the files are not of the same layers any more."""


class Recipe(msgspec.Struct, frozen=True):
    """`segments`: (number of a layer, or -1 for literal bytes; its first byte; length).

    `layout`: signature of the layout. `digest`: BLAKE3-256 of the whole file. `literal`: zlib of literal bytes.
    `checks`: the first eight bytes of each segment's BLAKE3, by which other layers are told early.
    """

    size: int
    layout: Raw
    digest: Raw
    segments: tuple[tuple[int, int, int], ...]
    literal: Raw
    checks: Raw


class _OldRecipe(msgspec.Struct, frozen=True):
    size: int
    digest: bytes
    segments: tuple[tuple[int, int], ...]


_DECODER = msgspec.msgpack.Decoder(Recipe)
_OLD_DECODER = msgspec.msgpack.Decoder(_OldRecipe)
_ENCODER = msgspec.msgpack.Encoder()


def make(kept: Layers, gone: Layers, progress: Progress) -> bytes:
    """The recipe of `gone`, rehearsed: made anew from the layers of `kept`, every byte is the same.

    Raises Unfit where it would hold too much of the file, or what it makes is not the file: then the two do not
    hold the same layers, or the file is no plain container. Raises FileError and OSError.
    """
    segments, unread = _segments(gone)
    size = gone.held.before.st_size
    literal = sum(length for index, _, length in segments if index == _LITERAL)
    if literal > min(_LITERAL_BYTES, max(PIECE, size // _LITERAL_PART)):
        raise Unfit(f"{literal} of its {size} bytes are no layers and would have to be kept")
    for index in unread:
        if any(one != other for one, other in zip(kept.pieces(index), gone.pieces(index), strict=True)):
            raise UnfitAsDifferent("its layers are not those of the kept file any more")
    packed = _packed(gone.held.fd, segments)
    draft = Recipe(size, gone.container.layout.signature, b"", tuple(segments), packed, b"")
    whole, checks, position = blake3(), bytearray(), 0
    for parts in _made(draft, kept):
        segment = blake3()
        for piece in parts:
            whole.update(piece)
            segment.update(piece)
            if os.pread(gone.held.fd, len(piece), position) != piece:
                raise UnfitAsDifferent(f"made anew from the kept file, it differs after byte {position}")
            position += len(piece)
            progress(position, size)
        checks += segment.digest(_CHECK)
    return _ENCODER.encode(msgspec.structs.replace(draft, digest=whole.digest(), checks=bytes(checks)))


def _packed(fd: int, segments: Sequence[tuple[int, int, int]]) -> bytes:
    """The literal bytes of a file. Raises Unfit where they are too many."""
    packer, packed, position = zlib.compressobj(6), bytearray(), 0
    for index, _, length in segments:
        if index == _LITERAL:
            for piece in pieces(fd, position, length):
                packed += packer.compress(piece)
        position += length
    packed += packer.flush()
    if len(packed) + 40 * len(segments) > MOST:
        raise Unfit(f"what is not layers takes {len(packed)} bytes, which is more than the journal takes")
    return bytes(packed)


def of_bytes(fd: int, size: int) -> bytes:
    """The recipe of a file as it is, whatever it holds. Raises Unfit, EOFError and OSError."""
    if size > _LITERAL_BYTES:
        raise Unfit(f"{size} bytes that are no layers are more than the journal takes")
    segments = ((_LITERAL, 0, size),)
    whole = blake3()
    for piece in pieces(fd, 0, size):
        whole.update(piece)
    made = Recipe(size, b"", whole.digest(), segments, _packed(fd, segments), whole.digest(_CHECK))
    return _ENCODER.encode(made)


def _decoded(body: bytes) -> Recipe:
    try:
        return _DECODER.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError("its recipe is damaged") from error


def rebuild(body: bytes, source: Layers | None) -> Iterator[bytes]:
    """The bytes of the file that a recipe is of, in pieces of at most 1 MiB.

    Raises ValueError, at the end too, where the source does not hold the same layers or the recipe is damaged.
    """
    recipe = _decoded(body)
    if (source.container.layout.signature if source else b"") != recipe.layout:
        raise ValueError("its layers have other names or shapes")
    whole, size = blake3(), 0
    for number, parts in enumerate(_made(recipe, source)):
        segment = blake3()
        for piece in parts:
            whole.update(piece)
            segment.update(piece)
            size += len(piece)
            yield piece
        if segment.digest(_CHECK) != recipe.checks[_CHECK * number : _CHECK * (number + 1)]:
            raise ValueError(_OTHER)
    if (size, whole.digest()) != (recipe.size, recipe.digest):
        raise ValueError(_OTHER)


def rebuild_old(path: str, kept: int) -> Iterator[bytes]:
    """The same from a recipe file of an earlier version, and the very kept file that it names offsets of.

    Raises EOFError where that is shorter than it was, ValueError for a damaged recipe, OSError.
    """
    with open(path, "rb") as file:
        head = file.read(len(_OLD_MAGIC) + _OLD_LENGTH.size)
        if len(head) != len(_OLD_MAGIC) + _OLD_LENGTH.size or not head.startswith(_OLD_MAGIC):
            raise ValueError("its recipe is of another version of lorad")
        (length,) = _OLD_LENGTH.unpack(head[len(_OLD_MAGIC) :])
        if length > _OLD_BODY:
            raise ValueError("its recipe is damaged")
        try:
            recipe = _OLD_DECODER.decode(file.read(length))
        except msgspec.DecodeError as error:
            raise ValueError("its recipe is damaged") from error
        literal = _unpacked(file.read(_LITERAL_BYTES))
        for offset, count in recipe.segments:
            yield from literal(count) if offset == _LITERAL else pieces(kept, offset, count)


def _made(recipe: Recipe, source: Layers | None) -> Iterator[Iterator[bytes]]:
    """The bytes of each segment."""
    literal = _unpacked(recipe.literal)
    for index, start, length in recipe.segments:
        if index == _LITERAL:
            yield literal(length)
        elif source is not None:
            yield source.part(index, start, length)


class _unpacked:  # noqa: N801 - a function with a place that it has come to
    def __init__(self, packed: bytes) -> None:
        self._unpacker, self._rest = zlib.decompressobj(), packed

    def __call__(self, length: int) -> Iterator[bytes]:
        while length:
            try:
                part = self._unpacker.decompress(self._rest, min(length, PIECE))
            except zlib.error as error:
                raise ValueError("the literal bytes of its recipe are damaged") from error
            self._rest = self._unpacker.unconsumed_tail
            if not part:
                raise ValueError("the literal bytes of its recipe are cut off")
            length -= len(part)
            yield part


def _segments(gone: Layers) -> tuple[list[tuple[int, int, int]], list[int]]:
    """The whole file as parts of its layers and literal bytes; and the layers that are not whole in it."""
    sizes = gone.container.layout.sizes
    ranges = sorted(
        (gone.place(index), size, index) for index, size in enumerate(sizes) if size and not gone.is_strided(index)
    )
    segments: list[tuple[int, int, int]] = []
    position = 0
    for start, length, index in [*ranges, (gone.held.before.st_size, 0, 0)]:
        if start > position:
            segments.append((_LITERAL, 0, start - position))
            position = start
        # Two layers can lie in the same bytes (tied weights).
        skip = position - start
        if length > skip:
            segments.append((index, skip, length - skip))
            position = start + length
    whole = {
        index for index, start, length in segments if index != _LITERAL and (start, length) == (0, sizes[index])
    }
    return segments, [index for index, size in enumerate(sizes) if size and index not in whole]
