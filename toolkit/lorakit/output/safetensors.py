"""A safetensors file, written layer by layer in any order, with its hash in its header.

Format: https://github.com/huggingface/safetensors#format. The library's own writer wants all layers at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec
from numpy.typing import NDArray

from loracore.tensorfile import DTYPE_BITS, Layer
from lorakit.output.draft import Draft
from lorakit.output.rounding import stored

#: Bytes that are read again at once, to be hashed.
_PIECE = 1 << 22
#: The header's length is stated in so many bytes before it.
_LENGTH = 8
#: Metadata that say the SHA-256 of all that follows the header: kohya's, and ModelSpec's with `0x` before it.
_MODEL_HASH, _SPEC_HASH = "sshs_model_hash", "modelspec.hash_sha256"
_NO_HASH = "0" * 64


class Writer:
    """Layers go where the header says; `finish` makes the file whole. Several threads may give layers at once."""

    def __init__(self, draft: Draft, layers: Sequence[Layer], metadata: Mapping[str, str]) -> None:
        """Lay the file out. Raises FileError where the disk has no room for it."""
        self._draft = draft
        self._metadata = _hashed(metadata, _NO_HASH)
        self._layers = ordered(layers)
        self._offsets: dict[str, int] = {}
        end = 0
        for layer in self._layers:
            self._offsets[layer.name] = end
            end += layer.nbytes
        self._by_name = {layer.name: layer for layer in self._layers}
        self._base = len(_header(self._layers, self._metadata))
        self._missing = set(self._offsets)
        self.size = self._base + end
        draft.reserve(self.size)

    def give(self, name: str, values: NDArray[Any]) -> None:
        """Write a layer. Raises UsageError where its dtype cannot hold the values, FileError."""
        layer = self._by_name[name]
        assert values.shape == layer.shape, (name, values.shape, layer.shape)
        self.give_bytes(name, stored(values, layer.dtype, name))

    def give_bytes(self, name: str, data: bytes | memoryview, start: int = 0) -> None:
        """Write a layer's bytes as they are, or some of them from `start` on."""
        layer = self._by_name[name]
        assert start + len(data) <= layer.nbytes, (name, start, len(data), layer.nbytes)
        self._draft.write(data, self._base + self._offsets[name] + start)
        self._missing.discard(name)

    def finish(self) -> None:
        """Put the header in front, with the hash of what follows it, and give the file its name."""
        assert not self._missing, sorted(self._missing)[:5]
        self._draft.write(_header(self._layers, _hashed(self._metadata, self._hash())), 0)
        self._draft.finish()

    def _hash(self) -> str:
        digest, place = sha256(), self._base
        while place < self.size:
            data = os.pread(self._draft.fd, min(_PIECE, self.size - place), place)
            digest.update(data)
            place += len(data)
        return digest.hexdigest()


def size_of(layers: Sequence[Layer], metadata: Mapping[str, str]) -> int:
    """Bytes of the file that a `Writer` of these makes."""
    header = _header(ordered(layers), _hashed(metadata, _NO_HASH))
    return len(header) + sum(layer.nbytes for layer in layers)


def _hashed(metadata: Mapping[str, str], digest: str) -> dict[str, str]:
    return {**metadata, _MODEL_HASH: digest, _SPEC_HASH: f"0x{digest}"}


def _header(layers: Sequence[Layer], metadata: Mapping[str, str]) -> bytes:
    """What stands before the bytes of the layers, which lie in this order."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for layer in layers:
        place = [start, start + layer.nbytes]
        entries[layer.name] = {"dtype": layer.dtype, "shape": list(layer.shape), "data_offsets": place}
        start += layer.nbytes
    text = msgspec.json.encode(entries)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH, "little") + text


def ordered(layers: Sequence[Layer]) -> list[Layer]:
    """As the library lays them out: the widest dtype first, then by name, so that all are aligned."""
    return sorted(layers, key=lambda layer: (-DTYPE_BITS[layer.dtype], layer.dtype, layer.name))
