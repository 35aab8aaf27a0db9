"""Values of layers: read by `pread`, one at a time, upcast exactly. numpy is loaded with the first array."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from typing import TYPE_CHECKING

from loracore.errors import ChangedFile, FileError
from loracore.identity import Identity
from loracore.tensorfile import DTYPE_BITS, Layer, open_regular, read_container
from loracore.tensorfile.strided import gather
from loracore.tensorfile.ziprecords import record_start

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from loracore.adapter.values import Array

#: Formats of `struct` for what an alpha may be.
_NUMBERS = {
    "F64": "<d", "F32": "<f", "F16": "<e",
    "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U64": "<Q", "U32": "<I", "U16": "<H", "U8": "<B",
}  # fmt: skip
_PIECE = 1 << 20


class TensorReader:
    """An open container whose layers are read as arrays. It stays open until `close`."""

    def __init__(self, path: bytes, shown: str) -> None:
        self.shown = shown
        self._stack = ExitStack()
        try:
            # A link is followed: whoever names a file here wants what it leads to.
            self.source = self._stack.enter_context(open_regular(os.path.realpath(path)))
            self._identity = Identity.of(os.fstat(self.source.fd))
            self.container = read_container(self.source, path)
        except FileError as error:
            self._stack.close()
            error.path = shown
            raise
        self.layers = {layer.name: layer for layer in self.container.layout.layers}
        self._index = {name: index for index, name in enumerate(self.layers)}
        self._closed = False

    def close(self) -> None:
        """Close the file; reading on raises FileError."""
        self._closed = True
        self._stack.close()

    def __del__(self) -> None:
        self._stack.close()

    def check_unchanged(self) -> None:
        """Raises ChangedFile where the file is not what it was when it was opened, or has been replaced."""
        # Losing its name to another file changes its ctime.
        if Identity.of(os.fstat(self.source.fd)) != self._identity:
            raise ChangedFile("it changed while it was read; do it again", self.shown)

    def sha256(self) -> str:
        """Of the whole file that is open, which its name may no longer lead to. Raises FileError."""
        try:
            with open(os.dup(self.source.fd), "rb") as file:
                file.seek(0)
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise FileError(f"it cannot be read: {reason}", self.shown) from error

    def read(self, name: str, dtype: DTypeLike = "float32") -> Array:
        """The layer's values in its shape. Eight- and sixteen-bit floats lose nothing in float32.

        Raises:
            FileError: it is closed, the file ends before the layer, or its dtype has no values (F4, complex).
        """
        with self._telling():
            return _upcast(self.layers[name], self._bytes(name), dtype)

    def read_rows(self, name: str, start: int, stop: int, dtype: DTypeLike = "float32") -> Array:
        """Rows `start` to `stop` of the layer's values: no more is read, where they lie in C order.

        Raises FileError as `read` does.
        """
        layer, index = self.layers[name], self._index[name]
        if index in self.container.arrangement.strided or DTYPE_BITS[layer.dtype] % 8:
            return self.read(name, dtype)[start:stop]
        size = layer.nbytes // max(1, layer.shape[0])
        part = Layer(name, layer.dtype, (stop - start, *layer.shape[1:]))
        with self._telling():
            return _upcast(part, self.source.read(self._start(index) + start * size, part.nbytes), dtype)

    def stored(self, name: str) -> bytes:
        """The layer's bytes: little-endian, in C order. Raises FileError as `read` does."""
        with self._telling():
            return self._bytes(name)

    def number(self, name: str) -> float:
        """The value of a layer that has one element. Raises FileError as `read` does."""
        if prod(self.layers[name].shape) != 1:
            raise ValueError(f"{name!r} has more or less than one element")
        kind = self.layers[name].dtype
        if kind == "BF16":
            # bfloat16 is the upper half of a float32.
            return float(struct.unpack("<f", b"\0\0" + self.stored(name))[0])
        if kind in _NUMBERS:
            return float(struct.unpack(_NUMBERS[kind], self.stored(name))[0])
        return float(self.read(name, "float64").reshape(()))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Reading, while the file is open; errors name it."""
        if self._closed:
            raise FileError("closed; read the adapter again", self.shown)
        try:
            yield
        except FileError as error:
            error.path = self.shown
            raise

    def _bytes(self, name: str) -> bytes:
        layer, index = self.layers[name], self._index[name]
        start = self._start(index)
        strides = self.container.arrangement.strided.get(index)
        if strides is None or not layer.nbytes:
            return self.source.read(start, layer.nbytes)
        return b"".join(gather(self.source, start, layer, strides, _PIECE))

    def _start(self, index: int) -> int:
        """Where the layer's bytes begin in the file."""
        places = self.container.arrangement
        base = record_start(self.source, places.records[index]) if places.records else self.container.base
        return base + places.offsets[index]


def _upcast(layer: Layer, data: bytes, dtype: DTypeLike) -> Array:
    from loracore.adapter.values import upcast  # noqa: PLC0415 - loads numpy

    return upcast(layer, data, dtype)
