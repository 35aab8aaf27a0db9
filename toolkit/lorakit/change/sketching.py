"""The nearest matrix of a rank to one that is there: by a random sketch, or exactly where it is small.

Two rounds of subspace iteration on a sketch of twice the rank (Halko, Martinsson, Tropp, SIAM Review 2011): what
is lost is within some thousandths of the least that can be.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lorakit.change.combining import Combined
from lorakit.change.decomposition import Decomposition, residual

#: Sides up to which the decomposition is exact: the Gram matrix of 512 rows takes as long as a sketch.
_SMALL = 512
_ROUNDS = 2


def nearest(matrix: Any, rank: int, xp: Any = np, seed: int = 0) -> Combined:
    """To a matrix in float32 or float64, of this rank. The same seed draws the same sketch."""
    rows, columns = matrix.shape
    if min(rows, columns) <= max(_SMALL, 2 * rank):
        double = matrix.astype(np.float64)
        pair = (xp.eye(rows), double) if rows <= columns else (double, xp.eye(columns))
        found = Decomposition(*pair, xp=xp)
        outer, inner = found.truncated(rank)
        return Combined(outer, inner, residual(found.values, rank), residual(found.values, 0))
    drawn = np.random.default_rng(seed).standard_normal((columns, 2 * rank), np.float32)
    basis = xp.linalg.qr(matrix @ xp.asarray(drawn))[0]
    for _ in range(_ROUNDS):
        basis = xp.linalg.qr(matrix @ (matrix.T @ basis))[0]
    left = basis.astype(np.float64)
    found = Decomposition(left, left.T @ matrix.astype(np.float64), xp)
    outer, inner = found.truncated(rank)
    whole = _squares(matrix, xp)
    kept = residual(found.values, 0) - residual(found.values, rank)
    return Combined(outer, inner, max(0.0, whole - kept), whole)


def _squares(matrix: Any, xp: Any) -> float:
    """In double precision, some rows at a time: in single precision a large sum is wrong."""
    return sum(
        float(xp.square(matrix[start : start + 256].astype(np.float64)).sum())
        for start in range(0, len(matrix), 256)
    )
