"""Leading singular values and vectors of a matrix that is read in pieces of rows.

A randomized block Krylov space (Musco and Musco, NeurIPS 2015): each pass is Q ← orth(Xᵀ(X·Q)), which needs each
row once, and the Q of all passes are the basis. Then X·Q = U·S·Wᵀ by its Gram matrix in double precision, and
X ≈ U·S·(Q·W)ᵀ. What it captures is never more than the optimum (Eckart and Young).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lorakit.change.comparison.rows import Rows, Singles

Doubles = NDArray[np.float64]
Quality = Literal["fast", "exact"]
#: Columns of the sketch beyond the rank: at least so many, or this part of it.
_MORE, _PART = 16, 0.25
#: Of white noise, the worst there is (4096 × 4096, rank 64), four leave 0.10 % above the optimal error, two 0.5 %.
PASSES = 4
#: The largest square whose eigenvectors are asked for by `exact`; they take four times its memory.
EXACT_SIDE = 8192
#: Where that is too large: passes until another one adds less than this share of the error.
_ENOUGH, _MOST_PASSES = 1e-5, 40
#: A singular value below this part of the greatest one is rounding of single precision.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Decomposition:
    """U·S·Vᵀ of rank k. `values` are S, all that are known; `left` is U (d × k), `right` V (k × n).

    `exact`: they are the optimum to rounding.
    """

    values: Doubles
    left: Singles
    right: Singles
    exact: bool

    def factors(self, rank: int) -> tuple[Singles, Singles]:
        """B (d × rank) and A (rank × n) with B·A ≈ X, √S on both; zeros where there are fewer values."""
        roots = np.sqrt(self.values[:rank]).astype(np.float32)
        outer = np.zeros((self.left.shape[0], rank), np.float32)
        inner = np.zeros((rank, self.right.shape[1]), np.float32)
        count = len(roots)
        outer[:, :count] = self.left[:, :count] * roots
        inner[:count] = roots[:, None] * self.right[:count]
        return outer, inner


def decompose(
    rows: Rows, rank: int, *, quality: Quality = "fast", passes: int = PASSES, seed: int = 0
) -> Decomposition:
    """The first `rank` singular values, or as many as there are, and more of lesser precision."""
    side = min(rows.shape)
    width = min(side, rank + max(_MORE, int(_PART * rank)))
    small = width * passes >= side
    if rows.whole is not None and (small or (quality == "exact" and side <= EXACT_SIDE)):
        basis = _eigenvectors(rows.whole, width)
        # One pass more takes the Gram matrix's own rounding away.
        return _projected(rows, orthonormal(_squared(rows, basis)), rank, exact=True)
    basis = np.random.default_rng(seed).standard_normal((rows.shape[1], width), np.float32)
    if quality == "exact":
        return _converged(rows, basis, rank)
    space = []
    for _ in range(passes):
        basis = orthonormal(_squared(rows, basis))
        space.append(basis)
    return _projected(rows, orthonormal(np.concatenate(space, axis=1)), rank, exact=False)


def residual(rows: Rows, outer: Singles, inner: Singles) -> float:
    """‖X - BA‖², formed piece by piece."""
    total, first = 0.0, 0
    for piece in rows.pieces():
        left = piece - outer[first : first + len(piece)] @ inner
        total += float(np.vdot(left, left))
        first += len(piece)
    return total


def _eigenvectors(matrix: Singles, width: int) -> Singles:
    """An orthonormal basis of the leading right singular vectors, from the smaller Gram matrix."""
    if matrix.shape[1] <= matrix.shape[0]:
        vectors = np.linalg.eigh(matrix.T @ matrix)[1]
        return np.ascontiguousarray(vectors[:, : -width - 1 : -1])
    vectors = np.linalg.eigh(matrix @ matrix.T)[1]
    return orthonormal(matrix.T @ np.ascontiguousarray(vectors[:, : -width - 1 : -1]))


def _converged(rows: Rows, basis: Singles, rank: int) -> Decomposition:
    energy, held = sum(float(np.vdot(piece, piece)) for piece in rows.pieces()), 0.0
    for _ in range(_MOST_PASSES):
        basis = orthonormal(_squared(rows, basis))
        found = _projected(rows, basis, rank, exact=True)
        now = float(found.values[:rank] @ found.values[:rank])
        if now - held <= _ENOUGH * max(energy - now, _ROUNDING * energy):
            return found
        held = now
    return _projected(rows, basis, rank, exact=False)


def _squared(rows: Rows, basis: Singles) -> Singles:
    """Xᵀ(X·Q)."""
    total = np.zeros_like(basis)
    for piece in rows.pieces():
        total += piece.T @ (piece @ basis)
    return total


def _projected(rows: Rows, basis: Singles, rank: int, *, exact: bool) -> Decomposition:
    image = np.concatenate([piece @ basis for piece in rows.pieces()])
    double = image.astype(np.float64)
    squares, vectors = np.linalg.eigh(double.T @ double)
    squares, vectors = np.maximum(squares[::-1], 0), vectors[:, ::-1]
    values = np.sqrt(squares)
    kept = int(np.count_nonzero(values > _ROUNDING * values[0])) if values[0] > 0 else 0
    count = min(rank, kept)
    turn = vectors[:, :count]
    left = (double @ (turn / values[:count])).astype(np.float32)
    right = (basis @ turn.astype(np.float32)).T
    return Decomposition(values[:kept], left, np.ascontiguousarray(right), exact)


def orthonormal(matrix: Singles) -> Singles:
    """An orthonormal basis of the columns, by their Gram matrix in double precision, twice.

    Six times as fast as Householder's QR for tall matrices; columns that depend on the others become zero.
    """
    double = matrix.astype(np.float64)
    for _ in range(2):
        squares, vectors = np.linalg.eigh(double.T @ double)
        known = squares > squares[-1] * 1e-15
        scale = np.where(known, 1 / np.sqrt(np.where(known, squares, 1)), 0)
        double = double @ (vectors * scale)
    return double.astype(np.float32)
