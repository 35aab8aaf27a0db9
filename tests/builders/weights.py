"""Bytes for layers: finite, small, random weights at memory speed, the same for the same seed everywhere."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterable, Mapping
from functools import cache
from math import prod

from tests.builders.architectures import LayerSpec

#: A layer: safetensors' name of its dtype, its shape, its bytes (little-endian, C order).
Layer = tuple[str, tuple[int, ...], bytes]
#: A file's layers by name.
Layers = Mapping[str, Layer]

#: Bytes of one element.
ITEM_SIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

#: Per dtype: which bits of an element's last byte stay random, and which are set. Exponents end up between
#: about 2^-15 and 1, so every value is finite and small.
_LAST_BYTE = {
    "F16": (0x8F, 0x20), "BF16": (0x81, 0x3C), "F32": (0x81, 0x3C), "F64": (0x80, 0x3F),
    "F8_E4M3": (0x9F, 0x20), "F8_E5M2": (0x8F, 0x20), "BOOL": (0x01, 0x00),
}  # fmt: skip
_BLOCK = 1024
_BLOCKS = 4096


def random_weights(
    specs: Iterable[LayerSpec], seed: int, *, alpha: float = 1.0, zero: str | None = None
) -> dict[str, Layer]:
    """Random layers for `specs`, different in every layer and for every seed.

    Layers whose name matches the regular expression `zero` are all zero; those named `….alpha` hold `alpha`.
    A layer above 4 KiB is 1 KiB blocks drawn from a pool of 4096, because drawing each byte would take ten
    times as long: two such layers are equal with a probability below 2^-48.
    """
    rng = random.Random(seed)
    zeros = re.compile(zero) if zero is not None else None
    layers = {}
    for name, dtype, shape in specs:
        size = prod(shape) * ITEM_SIZE[dtype]
        if zeros is not None and zeros.search(name):
            data = bytes(size)
        elif name.endswith(".alpha"):
            data = scalar(alpha, dtype)
        else:
            data = random_bytes(rng, dtype, size)
        layers[name] = (dtype, shape, data)
    return layers


def random_bytes(rng: random.Random, dtype: str, size: int) -> bytes:
    """`size` bytes of finite elements of `dtype`."""
    if size <= 4 * _BLOCK:
        return _finite(dtype, rng.randbytes(size))
    return b"".join(rng.choices(_pool(dtype), k=-(-size // _BLOCK)))[:size]


def scalar(value: float, dtype: str) -> bytes:
    """One element of a float dtype, in little-endian bytes."""
    if dtype == "BF16":
        return struct.pack("<f", value)[2:]
    return struct.pack({"F16": "<e", "F32": "<f", "F64": "<d"}[dtype], value)


@cache
def _pool(dtype: str) -> list[bytes]:
    data = _finite(dtype, random.Random(f"pool of {dtype}").randbytes(_BLOCK * _BLOCKS))
    return [data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK)]


def _finite(dtype: str, data: bytes) -> bytes:
    if dtype not in _LAST_BYTE:
        return data
    keep, put = _LAST_BYTE[dtype]
    step = ITEM_SIZE[dtype]
    table = bytes((byte & keep) | put for byte in range(256))
    masked = bytearray(data)
    masked[step - 1 :: step] = masked[step - 1 :: step].translate(table)
    return bytes(masked)
