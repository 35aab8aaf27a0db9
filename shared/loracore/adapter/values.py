"""Bytes of layers as numpy arrays, whatever their dtype. Eight- and sixteen-bit floats lose nothing in float32."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from loracore.errors import MalformedFile
from loracore.tensorfile import Layer

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

Array = NDArray[Any]


def upcast(layer: Layer, data: bytes, dtype: DTypeLike) -> Array:
    """`data` as an array of `dtype` in the layer's shape. Raises MalformedFile for dtypes without values (F4)."""
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
