"""What a file promises to hold, before any weight is read: layers, layouts and their signatures.

A reader learns it from the header, with where each layer's bytes lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from math import prod

import msgspec
from blake3 import blake3

#: Bits of one element of every dtype of the safetensors format (safetensors 0.8, `Dtype`), plus the two
#: AMD variants of eight-bit floats that torch can save. Names are safetensors' own in every container.
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
    "C128": 128,
}  # fmt: skip

#: More layers than any model has; a header that names more is hostile.
MAX_LAYERS = 131_072
#: torch's own limit on the number of dimensions.
MAX_DIMENSIONS = 64


class Layer(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One named tensor: safetensors' name of its dtype, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor, packed: little-endian, C order, sub-byte elements without padding."""
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8


_LAYERS = msgspec.msgpack.Decoder(list[Layer])


class Layout:
    """The sorted list of a file's layers. Two containers with the same content have the same layout."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self.layers = tuple(sorted(layers))

    @classmethod
    def decode(cls, encoded: bytes) -> Layout:
        """The layout of an encoding made by `encoded`."""
        return cls(_LAYERS.decode(encoded))

    @cached_property
    def encoded(self) -> bytes:
        """Canonical encoding: MessagePack of `[[name, dtype, [dims…]], …]`, sorted by name."""
        return msgspec.msgpack.encode(self.layers)

    @cached_property
    def signature(self) -> bytes:
        """BLAKE3-256 of the canonical encoding (32 bytes)."""
        return blake3(self.encoded).digest()

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each layer, in layout order."""
        return tuple(layer.nbytes for layer in self.layers)

    @property
    def nbytes(self) -> int:
        return sum(self.sizes)


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
