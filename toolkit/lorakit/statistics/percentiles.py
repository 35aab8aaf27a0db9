"""Percentiles to the last bit, in bounded memory: only what falls into the bins that matter is sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorakit.statistics.scan import BINS, Scan, Workspace, places

Floats = NDArray[np.floating[Any]]
#: Entries that are kept before equal ones are put together.
_KEPT = 1 << 20


def exact_percentiles(
    found: Scan, pieces: Callable[[], Iterator[Floats]], percents: Sequence[int]
) -> dict[int, float]:
    """As `np.percentile` of all entries sorted (method `linear`). `pieces` gives what was found, bit by bit."""
    if found.counts is None or found.grid is None:
        return dict.fromkeys(percents, found.minimum)
    wanted = [percent / 100 * (found.size - 1) for percent in percents]
    ranks = sorted({int(rank) + step for rank in wanted for step in (0, 1) if int(rank) + step < found.size})
    ends = np.cumsum(found.counts)
    bins = np.searchsorted(ends, ranks, side="right")
    values, counts = _gather(found, pieces, np.unique(bins))
    # Of the kept entries, how many lie before each; and of all entries, how many lie in bins that were not kept.
    kept = np.zeros(BINS, bool)
    kept[bins] = True
    left_out = np.cumsum(np.where(kept, 0, found.counts))
    before = np.cumsum(counts)
    at = {
        rank: float(values[np.searchsorted(before, rank - left_out[index], side="right")])
        for rank, index in zip(ranks, bins, strict=True)
    }
    result = {}
    for percent, rank in zip(percents, wanted, strict=True):
        low = at[int(rank)]
        high = at.get(int(rank) + 1, low)
        result[percent] = low + (high - low) * (rank - int(rank))
    return result


def _gather(
    found: Scan, pieces: Callable[[], Iterator[Floats]], bins: NDArray[np.intp]
) -> tuple[Floats, NDArray[np.int64]]:
    """The different entries in `bins`, sorted, and how often each is there."""
    assert found.grid is not None
    kept = np.zeros(BINS, bool)
    kept[bins] = True
    workspace = Workspace()
    parts: list[Floats] = []
    weights: list[NDArray[np.int64]] = []
    waiting = 0
    for piece in pieces():
        chosen = piece[kept[places(piece, found.grid, workspace)]]
        parts.append(chosen)
        weights.append(np.ones(chosen.size, np.int64))
        waiting += chosen.size
        if waiting > _KEPT:
            values, counts = _together(parts, weights)
            parts, weights, waiting = [values], [counts], 0
    return _together(parts, weights)


def _together(parts: list[Floats], weights: list[NDArray[np.int64]]) -> tuple[Floats, NDArray[np.int64]]:
    values, inverse = np.unique(np.concatenate(parts), return_inverse=True)
    counts = np.bincount(inverse, weights=np.concatenate(weights), minlength=values.size)
    return values, counts.astype(np.int64)
