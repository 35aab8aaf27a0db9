"""The weighted sum of several ΔW by their factors: exactly, to a rank, or within their principal components.

Σ wᵢΔWᵢ = [w₁B₁ … wₙBₙ]·[A₁; …; Aₙ]. What is cut off of it is what Eckart and Young allow. Of the factors alone no
sum may be taken: Σ wᵢBᵢ times Σ wᵢAᵢ is another matrix. A sum that is there as a matrix is brought to a rank
exactly where it is small, else by two rounds of subspace iteration on a sketch of twice the rank (Halko,
Martinsson, Tropp, SIAM Review 2011): what is lost is within some thousandths of the least that can be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lorakit.lowrank.device import on_host
from lorakit.lowrank.svd import Decomposition, Doubles, residual
from lorakit.modules.factors import Factors


class Combined(NamedTuple):
    """B and A of a merged module; what of ‖ΔW‖² is lost to its rank, and all of it."""

    outer: Any
    inner: Any
    lost: float
    whole: float

    def padded(self, rank: int) -> Combined:
        """With columns and rows of zeros up to this rank, where the matrix has less."""
        more = rank - self.outer.shape[1]
        if more <= 0:
            return self
        outer = np.pad(self.outer, ((0, 0), (0, more)))
        return self._replace(outer=outer, inner=np.pad(self.inner, ((0, more), (0, 0))))


def concatenated(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """The weighted sum, of the sum of their ranks."""
    rank = sum(part.rank for part in parts)
    outer = np.empty((len(parts[0].outer), rank))
    inner = np.empty((rank, parts[0].inner.shape[1]))
    start = 0
    for part, weight in zip(parts, weights, strict=True):
        end = start + part.rank
        np.multiply(part.outer, weight, out=outer[:, start:end])
        inner[start:end] = part.inner
        start = end
    return Factors(outer, inner)


def exact(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """The sum itself; A stays as it is but for powers of two, which lose nothing."""
    outers, inners = [], []
    for part, weight in zip(parts, weights, strict=True):
        outer = part.outer * weight
        shift = _shift(outer, part.inner)
        outers.append(np.ldexp(outer, -shift))
        inners.append(np.ldexp(part.inner, shift))
    return Factors(np.hstack(outers), np.vstack(inners))


def nearest(parts: Sequence[Factors], weights: Sequence[float], rank: int, xp: Any) -> Combined:
    """The matrix of this rank that is nearest to the sum."""
    whole = concatenated(parts, weights)
    found = Decomposition(xp.asarray(whole.outer), xp.asarray(whole.inner), xp)
    outer, inner = map(on_host, found.truncated(rank))
    return Combined(outer, inner, residual(found.values, rank), residual(found.values, 0))


def principal(parts: Sequence[Factors], weights: Sequence[float], rank: int, xp: Any) -> Combined:
    """The sum projected onto the principal components of all wᵢΔWᵢ: the left singular vectors of [w₁ΔW₁ … wₙΔWₙ].

    Columns are the samples, not centred, since no change is the zero of ΔW. Unlike the SVD of the sum, directions
    in which the inputs cancel count by what they weigh in each.
    """
    whole = concatenated(parts, weights)
    left, right = _side_by_side(parts, weights)
    aside = Decomposition(xp.asarray(left), xp.asarray(right), xp)
    basis = xp.linalg.qr(aside.truncated(rank)[0])[0]
    inside = (basis.T @ xp.asarray(whole.outer)) @ xp.asarray(whole.inner)
    found = Decomposition(basis, inside, xp)
    outer, inner = map(on_host, found.truncated(rank))
    kept, all_of_it = residual(found.values, 0), whole.squares
    return Combined(outer, inner, max(0.0, all_of_it - kept), all_of_it)


def _side_by_side(parts: Sequence[Factors], weights: Sequence[float]) -> tuple[Doubles, Doubles]:
    """[w₁ΔW₁ … wₙΔWₙ] as a product, up to a rotation of the right side, which no left vector depends on.

    A₁ … Aₙ stand in blocks; each is replaced by the small square L with L·Lᵀ = A·Aᵀ.
    """
    outer = concatenated(parts, weights).outer
    square = np.zeros((outer.shape[1],) * 2)
    start = 0
    for part in parts:
        values, vectors = np.linalg.eigh(part.inner @ part.inner.T)
        end = start + part.rank
        square[start:end, start:end] = vectors * np.sqrt(np.maximum(values, 0))
        start = end
    return outer, square


def _shift(outer: Doubles, inner: Doubles) -> int:
    """The power of two that brings the largest entries of both to about the same size."""
    first, second = float(np.abs(outer).max()), float(np.abs(inner).max())
    return round(math.log2(first / second) / 2) if first and second else 0


#: Sides up to which the decomposition is exact: the Gram matrix of 512 rows takes as long as a sketch.
_SMALL = 512
_ROUNDS = 2


def sketched(matrix: Any, rank: int, xp: Any = np, seed: int = 0) -> Combined:
    """The nearest of this rank to a matrix in float32 or float64: by a random sketch; exactly where it is small.

    The same seed draws the same sketch.
    """
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
