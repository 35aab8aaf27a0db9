"""One look at every entry: extremes, signs, the sum of absolute values, and a histogram."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from loracore.jobs.job import Cancelled

Floats = NDArray[np.floating[Any]]
Edge = TypeVar("Edge", float, NDArray[np.float64])

#: Bins to a standard deviation: a percentile is wrong by less than one bin.
_FINE = 1024
#: Standard deviations to each side. By Cantelli's inequality the percentiles 1 and 99 of any distribution lie
#: within √99 = 9.95 of the mean; so what is farther away need not be told apart.
_REACH = 10
BINS = 2 * _REACH * _FINE


@dataclass(frozen=True)
class Grid:
    """Bins around the mean, for entries that are not all the same (std > 0)."""

    mean: float
    std: float

    @property
    def per_unit(self) -> float:
        return _FINE / self.std

    @property
    def origin(self) -> float:
        """The lower edge of the first bin."""
        return self.mean - _REACH * self.std

    def edge(self, place: Edge) -> Edge:
        return self.origin + place / self.per_unit


class Workspace:
    """Memory of one thread, used again for each block. `stop`: once set, what the thread does is not wanted."""

    def __init__(self, stop: Event | None = None) -> None:
        self._stop = stop
        self._arrays: dict[str, NDArray[Any]] = {}
        self._ones: dict[tuple[int, type[np.generic]], NDArray[Any]] = {}

    def go_on(self) -> None:
        """Between blocks: raises Cancelled where nobody waits for the rest."""
        if self._stop is not None and self._stop.is_set():
            raise Cancelled("cancelled")

    def array(self, name: str, shape: tuple[int, int], dtype: type[np.generic]) -> NDArray[Any]:
        size = shape[0] * shape[1]
        held = self._arrays.get(name)
        if held is None or held.size < size or held.dtype != dtype:
            held = self._arrays[name] = np.empty(size, dtype)
        return held[:size].reshape(shape)

    def ones(self, count: int, dtype: type[np.generic]) -> NDArray[Any]:
        held = self._ones.get((count, dtype))
        if held is None:
            held = self._ones[count, dtype] = np.ones(count, dtype)
        return held


@dataclass(frozen=True)
class Scan:
    """What a look at every entry told. `counts`: of the grid's bins; those at both ends hold what is beyond."""

    size: int
    minimum: float
    maximum: float
    absolute_sum: float
    positive: int
    negative: int
    grid: Grid | None
    counts: NDArray[np.int64] | None

    def percentiles(self, percents: Sequence[int]) -> dict[int, float]:
        """As numpy's linear percentiles, but for less than a bin: 1e-3 of the standard deviation."""
        if self.counts is None or self.grid is None:
            return dict.fromkeys(percents, self.minimum)
        ranks = np.array(percents) / 100 * (self.size - 1)
        ends = np.cumsum(self.counts)
        below = ranks.astype(np.int64)
        places = np.minimum([below, below + 1], self.size - 1)
        bins = np.searchsorted(ends, places, side="right")
        # Entries of a bin are taken as evenly spread.
        inside = (places - ends[bins] + self.counts[bins] + 0.5) / self.counts[bins]
        low, high = np.clip(self.grid.edge(bins + inside), self.minimum, self.maximum)
        return dict(zip(percents, (low + (high - low) * (ranks - below)).tolist(), strict=True))


def scan(pieces: Iterable[Floats], grid: Grid | None, workspace: Workspace) -> Scan:
    """Look at every entry once."""
    size = positive = negative = 0
    minimum, maximum, total = np.inf, -np.inf, 0.0
    counts = np.zeros(BINS, np.int64) if grid is not None else None
    for block in pieces:
        size += block.size
        low, high = float(np.minimum.reduce(block, axis=None)), float(np.maximum.reduce(block, axis=None))
        minimum, maximum = min(minimum, low), max(maximum, high)
        signs = workspace.array("signs", block.shape, np.bool_)
        positive += int(np.count_nonzero(np.greater(block, 0, out=signs)))
        negative += int(np.count_nonzero(np.less(block, 0, out=signs)))
        spare = workspace.array("spare", block.shape, block.dtype.type)
        np.abs(block, out=spare)
        total += float((spare @ workspace.ones(block.shape[1], block.dtype.type)).sum(dtype=np.float64))
        if counts is not None and grid is not None:
            counts += np.bincount(places(block, grid, workspace, low, high).ravel(), minlength=BINS)
    return Scan(size, minimum, maximum, total, positive, negative, grid, counts)


def places(
    block: Floats, grid: Grid, workspace: Workspace, low: float = -np.inf, high: float = np.inf
) -> NDArray[np.int64]:
    """The bin of each entry, which are from `low` to `high`."""
    spare = workspace.array("spare", block.shape, block.dtype.type)
    np.subtract(block, block.dtype.type(grid.origin), out=spare)
    np.multiply(spare, block.dtype.type(grid.per_unit), out=spare)
    if low < grid.edge(1) or high > grid.edge(BINS - 1):
        np.clip(spare, 0, BINS - 1, out=spare)
    # By way of 32 bits: processors turn floats into these many at a time.
    short = workspace.array("short", block.shape, np.int32)
    np.copyto(short, spare, casting="unsafe")
    indices: NDArray[np.int64] = workspace.array("places", block.shape, np.int64)
    np.copyto(indices, short)
    return indices
