"""Values as they are stored: rounded to nearest, and refused where a dtype cannot hold them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loracore.errors import UsageError
from loracore.jobs.change import Stored

#: safetensors' names of what is written.
DTYPES: dict[Stored, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
NAMES: dict[str, Stored] = {name: stored for stored, name in DTYPES.items()}


def stored(values: NDArray[Any], dtype: str, layer: str) -> bytes | memoryview:
    """The bytes of `values` as F32, F16 or BF16, little-endian, in C order.

    Raises UsageError where a finite value becomes infinite, and where one is not finite.
    """
    single = np.ascontiguousarray(values, np.float32)
    if dtype == "F32":
        rounded, back = single.astype("<f4", copy=False), single
    elif dtype == "F16":
        with np.errstate(over="ignore"):
            rounded = single.astype("<f2")
        back = rounded
    else:
        rounded = _bfloat16(single)
        back = (rounded.astype(np.uint32) << 16).view(np.float32)
    if not _is_finite(back):
        _refuse(single, dtype, layer)
    return rounded.reshape(-1).view(np.uint8).data


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


def _is_finite(values: NDArray[Any]) -> bool:
    # A sum is finite where all are; only then need each be looked at.
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values.sum(dtype=np.float64))) or bool(np.isfinite(values).all())


def _refuse(single: NDArray[np.float32], dtype: str, layer: str) -> None:
    if not _is_finite(single):
        raise UsageError(f"layer {layer[:200]!r} would hold NaN or Inf; nothing was written")
    largest = float(np.abs(single).max()) if single.size else math.nan
    raise UsageError(
        f"layer {layer[:200]!r} holds {largest:.3g}, more than {NAMES[dtype]} can; take --dtype float32"
    )
