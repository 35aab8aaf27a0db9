"""Looking at ΔW's entries on a GPU, by torch or by CuPy, whichever is installed.

Spectra stay on the CPU: their squares are too small to be worth the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loracore.errors import MissingPackage, UsageError
from lorakit.statistics.scan import BINS, Grid, Scan

#: Entries that are on the device at once.
_BLOCK = 1 << 26


@dataclass(frozen=True)
class Device:
    """What torch and CuPy name differently. `where` says which it is, for people."""

    where: str
    put: Callable[[NDArray[Any]], Any]
    whole: Callable[[Any], Any]
    count: Callable[[Any], Any]
    total: Callable[[Any], float]

    def scan(self, outer: NDArray[Any], inner: NDArray[Any], grid: Grid | None) -> Scan:
        """As `lorakit.statistics.scan.scan`, of outer · inner."""
        columns = inner.shape[1]
        rows = max(1, _BLOCK // columns)
        left, right = self.put(outer), self.put(inner)
        minimum, maximum, total = np.inf, -np.inf, 0.0
        positive = negative = 0
        counts = np.zeros(BINS, np.int64) if grid is not None else None
        for start in range(0, outer.shape[0], rows):
            block = left[start : start + rows] @ right
            minimum, maximum = min(minimum, float(block.min())), max(maximum, float(block.max()))
            positive += int((block > 0).sum())
            negative += int((block < 0).sum())
            total += self.total(abs(block))
            if counts is not None and grid is not None:
                places = ((block - grid.origin) * grid.per_unit).clip(0, BINS - 1)
                counts += self.count(self.whole(places).reshape(-1))
        size = outer.shape[0] * columns
        return Scan(size, minimum, maximum, total, positive, negative, grid, counts)


def find(name: str) -> Device | None:
    """The device of this name; None for the CPU, which needs none. Raises MissingPackage and UsageError."""
    if name == "cpu":
        return None
    try:
        import torch  # noqa: F401, PLC0415 - takes a second
    except ModuleNotFoundError:
        return _by_cupy()
    return by_torch(name)


def by_torch(name: str) -> Device:
    """Raises UsageError where torch cannot use it."""
    import torch  # noqa: PLC0415

    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no GPU here; install torch for CUDA, or take --device cpu")
    return Device(
        where=f"torch, {name}",
        put=lambda values: torch.as_tensor(values, device=name),
        whole=lambda values: values.to(torch.int64),
        count=lambda places: torch.bincount(places, minlength=BINS).cpu().numpy(),
        total=lambda values: float(values.sum(dtype=torch.float64)),
    )


def _by_cupy() -> Device:
    try:
        cupy: Any = import_module("cupy")
    except ModuleNotFoundError as error:
        remedy = "pip install torch, or pip install 'lorad[gpu]'"
        raise MissingPackage(f"--device cuda needs torch or CuPy: {remedy}", "importance") from error
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UsageError(f"--device cuda: {error}; take --device cpu") from error
    return Device(
        where="CuPy",
        put=cupy.asarray,
        whole=lambda values: values.astype(cupy.int64),
        count=lambda places: cupy.asnumpy(cupy.bincount(places, minlength=BINS)),
        total=lambda values: float(values.sum(dtype=cupy.float64)),
    )
