"""Values of layers as numpy arrays: read by `pread`, one at a time, upcast exactly."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from loracore.errors import FileError, MalformedFile
from loracore.tensorfile import DTYPE_BITS, Layer, open_regular, read_container
from loracore.tensorfile.strided import gather
from loracore.tensorfile.ziprecords import record_start

#: Dtypes that numpy has, little-endian as in every container.
_PLAIN = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip
#: Eight-bit floats: bits of the exponent, of the mantissa, the bias, and whether the format has infinities (IEEE),
#: NaN at all ones only ("fn"), or NaN at minus zero only ("fnuz"). OCP 8-bit floating point, revision 1.0.
_EIGHT_BITS = {
    "F8_E4M3": (4, 3, 7, "fn"),
    "F8_E5M2": (5, 2, 15, "ieee"),
    "F8_E4M3FNUZ": (4, 3, 8, "fnuz"),
    "F8_E5M2FNUZ": (5, 2, 16, "fnuz"),
}
_PIECE = 1 << 20

Array = NDArray[Any]


class TensorReader:
    """An open container whose layers are read as arrays. It stays open until `close`."""

    def __init__(self, path: bytes, shown: str) -> None:
        self.shown = shown
        self._stack = ExitStack()
        try:
            # A link is followed: whoever names a file here wants what it leads to.
            self.source = self._stack.enter_context(open_regular(os.path.realpath(path)))
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

    def read(self, name: str, dtype: DTypeLike = np.float32) -> Array:
        """The layer's values in its shape. Eight- and sixteen-bit floats lose nothing in float32.

        Raises:
            FileError: it is closed, the file ends before the layer, or its dtype has no values (F4, complex).
        """
        layer = self.layers[name]
        data = self.stored(name)
        try:
            return upcast(layer, data, np.dtype(dtype))
        except FileError as error:
            error.path = self.shown
            raise

    def read_rows(self, name: str, start: int, stop: int, dtype: DTypeLike = np.float32) -> Array:
        """Rows `start` to `stop` of the layer's values: no more is read, where they lie in C order.

        Raises FileError as `read` does.
        """
        layer = self.layers[name]
        index = self._index[name]
        if index in self.container.arrangement.strided or DTYPE_BITS[layer.dtype] % 8:
            return self.read(name, dtype)[start:stop]
        if self._closed:
            raise FileError("closed; read the adapter again", self.shown)
        size = layer.nbytes // max(1, layer.shape[0])
        part = Layer(name, layer.dtype, (stop - start, *layer.shape[1:]))
        try:
            return upcast(part, self.source.read(self._start(index) + start * size, part.nbytes), np.dtype(dtype))
        except FileError as error:
            error.path = self.shown
            raise

    def stored(self, name: str) -> bytes:
        """The layer's bytes: little-endian, in C order. Raises FileError as `read` does."""
        if self._closed:
            raise FileError("closed; read the adapter again", self.shown)
        try:
            return self._bytes(self.layers[name])
        except FileError as error:
            error.path = self.shown
            raise

    def _bytes(self, layer: Layer) -> bytes:
        index = self._index[layer.name]
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


def upcast(layer: Layer, data: bytes, dtype: np.dtype[Any]) -> Array:
    """`data` as an array of `dtype` in the layer's shape."""
    values: Array
    if layer.dtype == "BF16":
        # bfloat16 is the upper half of a float32.
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif layer.dtype in _PLAIN:
        values = np.frombuffer(data, _PLAIN[layer.dtype])
    elif layer.dtype in _EIGHT_BITS:
        values = eight_bit_values(layer.dtype)[np.frombuffer(data, np.uint8)]
    elif layer.dtype == "F8_E8M0":
        # Powers of two alone, and NaN (OCP microscaling formats, section 5.4.1).
        powers = np.append(np.ldexp(1.0, np.arange(-127, 128)), np.nan)
        values = powers[np.frombuffer(data, np.uint8)]
    else:
        raise MalformedFile(
            f"layer {layer.name[:80]!r} is {layer.dtype}, which an adapter cannot be computed from"
        )
    return values.reshape(layer.shape).astype(dtype, copy=layer.dtype != "BF16")


@cache
def eight_bit_values(name: str) -> NDArray[np.float32]:
    """What each of the 256 codes of an eight-bit float means."""
    exponent_bits, mantissa_bits, bias, kind = _EIGHT_BITS[name]
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = codes & ((1 << mantissa_bits) - 1)
    fraction = mantissa / (1 << mantissa_bits)
    normal = np.ldexp(1 + fraction, exponent - bias)
    values = sign * np.where(exponent == 0, np.ldexp(fraction, 1 - bias), normal)
    if kind == "ieee":
        top = exponent == (1 << exponent_bits) - 1
        values[top] = np.where(mantissa[top] == 0, sign[top] * np.inf, np.nan)
    elif kind == "fn":
        values[(codes & 0x7F) == 0x7F] = np.nan
    else:
        values[0x80] = np.nan
    return values.astype(np.float32)
