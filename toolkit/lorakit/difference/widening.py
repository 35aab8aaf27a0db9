"""Stored entries as floats that can be computed with, into arrays that are used again.

Everything fits into float32 without loss, but for 64-bit floats and integers of 32 bits or more: these become
float64, which holds integers up to 2^53.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loracore.adapter.values import eight_bit_values
from lorakit.modules.survey import Unfit

_PLAIN = {
    "F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip

_EIGHT_BITS = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"})

_WIDE = frozenset({"F64", "I64", "I32", "U64", "U32"})

#: Bits of the mantissa, by which a float's last place is known.
MANTISSA = {"F32": 23, "F16": 10, "BF16": 7, "F8_E4M3": 3, "F8_E5M2": 2, "F8_E4M3FNUZ": 3, "F8_E5M2FNUZ": 2}

#: float16's exponent bias is 15, float32's 127.
_REBIAS = np.float32(2.0**112)

_INFINITE = 0x7C00


def check(dtype: str) -> None:
    """Raises Unfit for a dtype whose entries have no values to compare."""
    if dtype not in {"F16", "BF16"} and dtype not in _PLAIN and dtype not in _EIGHT_BITS:
        raise Unfit(f"it is {dtype}, which cannot be compared; convert it to float16 or float32 first")


def float_type(*dtypes: str) -> type[np.floating[Any]]:
    """What the entries of such layers are computed in."""
    return np.float64 if _WIDE.intersection(dtypes) else np.float32


@np.errstate(invalid="ignore")
def widen(dtype: str, raw: NDArray[np.uint8], out: NDArray[np.floating[Any]], spare: NDArray[np.uint32]) -> None:
    """Write the entries whose bytes are `raw` into `out`, of as many entries. `spare` has room for as many.

    A NaN that signals stays NaN and is not warned of: whoever sums says it.
    """
    if dtype == "BF16" and out.dtype == np.float32:
        # bfloat16 is the upper half of a float32.
        bits = out.view(np.uint32)
        np.copyto(bits, raw.view("<u2"))
        np.left_shift(bits, 16, out=bits)
    elif dtype == "F16" and out.dtype == np.float32:
        _half(raw, out, spare[: out.size])
    elif dtype == "BF16":
        out[:] = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    elif dtype == "F16":
        out[:] = raw.view("<f2")
    elif dtype in _PLAIN:
        np.copyto(out, raw.view(_PLAIN[dtype]), casting="unsafe")
    else:
        out[:] = _table(dtype)[raw]


def _half(raw: NDArray[np.uint8], out: NDArray[Any], spare: NDArray[np.uint32]) -> None:
    """float16 by its bits, three times as fast as numpy's own conversion; subnormals are exact too."""
    bits = out.view(np.uint32)
    np.copyto(spare, raw.view("<u2"))
    np.bitwise_and(spare, 0x7FFF, out=bits)
    if bits.size and bits.max() >= _INFINITE:
        out[:] = raw.view("<f2")
        return
    np.left_shift(bits, 13, out=bits)
    np.multiply(out, _REBIAS, out=out)
    np.bitwise_and(spare, 0x8000, out=spare)
    np.left_shift(spare, 16, out=spare)
    np.bitwise_or(bits, spare, out=bits)


@cache
def _table(dtype: str) -> NDArray[np.float32]:
    """What each of the 256 codes of an eight-bit float means."""
    if dtype == "F8_E8M0":
        # Powers of two alone, and NaN (OCP microscaling formats, section 5.4.1).
        return np.append(np.ldexp(1.0, np.arange(-127, 128)), np.nan).astype(np.float32)
    return eight_bit_values(dtype)
