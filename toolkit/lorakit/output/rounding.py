"""Values as they are stored: rounded to nearest, and refused where a dtype cannot hold them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loracore.adapter.values import eight_bit_values
from loracore.errors import UsageError
from loracore.jobs.change import Stored

#: safetensors' names of what is written.
DTYPES: dict[Stored, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
NAMES: dict[str, Stored] = {name: stored for stored, name in DTYPES.items()}
#: Eight-bit floats that base models have.
EIGHT_BITS = frozenset({"F8_E4M3", "F8_E5M2"})
#: All dtypes that values can be rounded to.
FLOATS = frozenset({"F64", *NAMES, *EIGHT_BITS})
#: The largest finite value of each.
_LARGEST = {
    "F64": float(np.finfo(np.float64).max), "F32": float(np.finfo(np.float32).max), "F16": 65504.0,
    "BF16": float.fromhex("0x1.fep127"), "F8_E4M3": 448.0, "F8_E5M2": 57344.0,
}  # fmt: skip
#: As what each is read, and its exponent's bits, which all are set in NaN and Inf.
_EXPONENTS = {
    "F64": ("<u8", 0x7FF << 52), "F32": ("<u4", 0xFF << 23),
    "F16": ("<u2", 0x1F << 10), "BF16": ("<u2", 0xFF << 7),
}  # fmt: skip


class Unstorable(UsageError):
    """Values that a dtype cannot hold, or that are no numbers; the text names the layer alone."""


def stored(
    values: NDArray[Any], dtype: str, layer: str, remedy: str = "take --dtype float32"
) -> bytes | memoryview:
    """The bytes of `values` as F64, F32, F16, BF16 or one of eight bits, little-endian, in C order.

    `remedy`: what to do about a value that is too large for the dtype. Raises Unstorable where a finite value
    becomes infinite, and where one is not finite.
    """
    single: NDArray[Any]
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(values, np.float64 if dtype == "F64" else np.float32)
    rounded: NDArray[Any]
    if dtype in {"F64", "F32"}:
        rounded = single.astype("<f8" if dtype == "F64" else "<f4", copy=False)
    elif dtype in EIGHT_BITS:
        rounded = _eight_bits(single, dtype)
    elif dtype == "F16":
        with np.errstate(over="ignore"):
            rounded = single.astype("<f2")
    else:
        rounded = _bfloat16(single)
    if not _lies_within(single, _LARGEST[dtype]) and not _is_finite(rounded, dtype):
        _refuse(np.asarray(values), dtype, layer, remedy)
    return rounded.reshape(-1).view(np.uint8).data


def refuse_unfinite(data: bytes, dtype: str, layer: str) -> None:
    """Raises Unstorable where bytes that are stored as they were hold NaN or Inf; eight bits are not looked at."""
    if dtype in _EXPONENTS:
        kind, exponent = _EXPONENTS[dtype]
        bits = np.frombuffer(data, kind)
        if bits.size and bool(((bits & bits.dtype.type(exponent)) == exponent).any()):
            raise Unstorable(f"layer {layer[:200]!r} holds NaN or Inf; take a checkpoint from before that")


def as_stored(values: NDArray[Any], dtype: str, layer: str) -> NDArray[np.float32]:
    """The values that a layer will have when it is read again. Raises as `stored`."""
    data = np.frombuffer(stored(values, dtype, layer), np.uint8)
    kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    found = data.view(kinds[dtype]).reshape(values.shape)
    if dtype == "BF16":
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32)


def _bfloat16(single: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of each float32, to nearest, ties to even. Not a number stays none."""
    bits = single.view(np.uint32)
    up = bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))
    halves: NDArray[np.uint16] = (up >> 16).astype("<u2")
    lost = np.isnan(single)
    if lost.any():
        halves[lost] = 0x7FC0
    return halves


def _eight_bits(single: NDArray[np.float32], dtype: str) -> NDArray[np.uint8]:
    """The code of the nearest value, ties to the even code; what lies beyond the last is no finite value."""
    values = eight_bit_values(dtype)[:0x80].astype(np.float64)
    last = int(np.flatnonzero(np.isfinite(values))[-1])
    # Half a step beyond the last: from there on a value would be rounded to the next, if there were one.
    step = values[last] - values[last - 1]
    between = np.append((values[:last] + values[1 : last + 1]) / 2, values[last] + step / 2)
    size = np.abs(single)
    with np.errstate(invalid="ignore"):
        codes = np.searchsorted(between, size.ravel()).reshape(size.shape)
        on_tie = (codes <= last) & (size == between[np.minimum(codes, last)])
    codes += on_tie & (codes & 1 == 1)
    found = codes.astype(np.uint8)
    # What comes behind the last is infinite in one format and not a number in the other.
    found[codes > last] = 0x7C if dtype == "F8_E5M2" else 0x7F
    found[np.isnan(single)] = 0x7F
    return found | np.where(np.signbit(single), np.uint8(0x80), np.uint8(0))


def _lies_within(single: NDArray[Any], largest: float) -> bool:
    """Not where one is no number."""
    return not single.size or bool(single.max() <= largest and single.min() >= -largest)


def _is_finite(rounded: NDArray[Any], dtype: str) -> bool:
    """Values beyond the largest may still be rounded to it."""
    if dtype == "BF16":
        rounded = (rounded.astype(np.uint32) << 16).view(np.float32)
    elif dtype in EIGHT_BITS:
        rounded = eight_bit_values(dtype)[rounded]
    return bool(np.isfinite(rounded).all())


def _refuse(values: NDArray[Any], dtype: str, layer: str, remedy: str) -> None:
    if not np.isfinite(values).all():
        raise Unstorable(f"layer {layer[:200]!r} would hold NaN or Inf; nothing was written")
    largest = float(np.abs(values).max()) if values.size else math.nan
    name = NAMES.get(dtype, dtype)
    if dtype in {"F64", "F32"}:
        # Wider than float32 is nothing that is written.
        remedy = "take a checkpoint from before that"
    raise Unstorable(f"layer {layer[:200]!r} holds {largest:.3g}, more than {name} can; {remedy}")
