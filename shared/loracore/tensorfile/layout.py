"""Layers, layouts and their signatures: what a file promises to hold, before any weight is read."""

from __future__ import annotations

from collections.abc import Iterable
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
