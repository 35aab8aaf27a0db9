"""What a reader learns from the header of a container: the layout, and where each layer's bytes lie."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from blake3 import blake3

from loracore.tensorfile.layout import Layout

#: A larger header is refused: parsing it would cost seconds, and no real file comes near.
MAX_HEADER = 16 << 20


class Strides(msgspec.Struct, frozen=True, array_like=True):
    """A tensor that does not lie in C order: torch keeps the strides of views.

    `strides` are in elements, as torch counts them; `storage_bytes` is the length of the storage that
    starts at the layer's offset and holds every element.
    """

    strides: tuple[int, ...]
    storage_bytes: int


class Arrangement(msgspec.Struct, frozen=True, array_like=True):
    """Where a layout's layers lie in a file, in layout order. Files of one writer share it.

    `offsets` count from the container's `base`. Where `records` is given (torch's zip), each layer lies in
    the zip record whose local header starts at `records[i]`, and `offsets[i]` counts from that record's
    first data byte, which only the local header tells: it is read together with the layer.
    """

    offsets: Sequence[int]
    records: Sequence[int] = ()
    strided: dict[int, Strides] = {}

    @classmethod
    def decode(cls, encoded: bytes) -> Arrangement:
        return _ARRANGEMENT.decode(encoded)

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    def signature(self, layout: Layout) -> bytes:
        """BLAKE3-256 over the layout's signature and the encoded arrangement (32 bytes)."""
        return blake3(layout.signature + self.encode()).digest()


_ARRANGEMENT = msgspec.msgpack.Decoder(Arrangement)


class Container(msgspec.Struct, frozen=True):
    """A file's header, read and checked.

    `format` is `safetensors`, `torch-zip` or `torch-legacy`. `base` is where offsets count from.
    `metadata` holds what the file says about itself, untouched. `bytes_read` is what reading this cost.
    `residue` is the BLAKE3-256 of every byte that belongs to no layer, with its place: two files of one
    layout that agree on all layers and on the residue are equal byte for byte. It is None where learning
    it would mean reading between the layers (torch's zip); `tensorfile.residue` does that when asked.
    """

    format: str
    layout: Layout
    arrangement: Arrangement
    arrangement_signature: bytes
    base: int
    bytes_read: int
    metadata: dict[str, str]
    residue: bytes | None = None
