"""Leading singular values and vectors of a matrix that is read in pieces of rows.

A randomized block Krylov space (Musco and Musco, NeurIPS 2015): each pass is Q ← orth(Xᵀ(X·Q)), which needs each
row once, and the Q of all passes are the basis. Then X·Q = U·S·Wᵀ by its Gram matrix in double precision, and
X ≈ U·S·(Q·W)ᵀ. What it captures is never more than the optimum (Eckart and Young).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lorakit.difference.rows import Rows, Singles
from lorakit.lowrank.device import on_host

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
    matrix: Rows, rank: int, *, quality: Quality = "fast", passes: int = PASSES, seed: int = 0, arrays: Any = np
) -> Decomposition:
    """The first `rank` singular values, or as many as there are, and more of lesser precision.

    `arrays`: what computes, numpy or cupy. Raises LinAlgError where the values are too large to be squared.
    """
    algebra = _Algebra(matrix.on(arrays), rank, arrays)
    side = min(matrix.shape)
    width = min(side, columns(rank, 1))
    small = columns(rank, passes) >= side
    if matrix.whole is not None and (small or (quality == "exact" and side <= EXACT_SIDE)):
        return algebra.by_gram(width)
    start = np.random.default_rng(seed).standard_normal((matrix.shape[1], width), np.float32)
    basis = arrays.asarray(start)
    return algebra.converged(basis) if quality == "exact" else algebra.krylov(basis, passes)


def columns(rank: int, passes: int) -> int:
    """How many columns the bases of all passes have."""
    return passes * (rank + max(_MORE, int(_PART * rank)))


def scratch(shape: tuple[int, int], rank: int, passes: int, quality: Quality) -> int:
    """Bytes that `decompose` takes beside the matrix, about."""
    side = min(shape)
    width = min(side, columns(rank, passes))
    # A basis is in single and in double precision at once, and so is what becomes of it.
    bases = 24 * sum(shape) * width
    # LAPACK's eigenvectors: the square, a copy, and twice as much to work in, in single precision.
    by_gram = width == side or (quality == "exact" and side <= EXACT_SIDE)
    return bases + 16 * side**2 if by_gram else bases


def residual(matrix: Rows, outer: Singles, inner: Singles) -> float:
    """‖X - BA‖², formed piece by piece."""
    total, first = 0.0, 0
    for piece in matrix.pieces():
        left = piece - outer[first : first + len(piece)] @ inner
        total += float(np.vdot(left, left))
        first += len(piece)
    return total


class _Algebra:
    """Ways to the leading singular vectors of one matrix, by numpy's names in the module `arrays`."""

    def __init__(self, matrix: Rows, rank: int, arrays: Any) -> None:
        self._matrix = matrix
        self._rank = rank
        self._arrays = arrays

    def by_gram(self, width: int) -> Decomposition:
        """By the eigenvectors of the smaller Gram matrix; one pass more takes that one's own rounding away."""
        whole = self._matrix.whole
        assert whole is not None
        tall = whole.shape[1] <= whole.shape[0]
        vectors = self._arrays.linalg.eigh(whole.T @ whole if tall else whole @ whole.T)[1]
        basis = self._arrays.ascontiguousarray(vectors[:, : -width - 1 : -1])
        if not tall:
            basis = self._orthonormal(whole.T @ basis)
        return self._projected(self._orthonormal(self._squared(basis)), exact=True)

    def krylov(self, basis: Any, passes: int) -> Decomposition:
        space = []
        for _ in range(passes):
            basis = self._orthonormal(self._squared(basis))
            space.append(basis)
        return self._projected(self._orthonormal(self._arrays.concatenate(space, axis=1)), exact=False)

    def converged(self, basis: Any) -> Decomposition:
        """By passes until they add nothing more."""
        energy, held = sum(float((piece * piece).sum()) for piece in self._matrix.pieces()), 0.0
        for _ in range(_MOST_PASSES):
            basis = self._orthonormal(self._squared(basis))
            squares = self._arrays.linalg.eigh(self._gram(basis))[0]
            now = float(squares[::-1][: self._rank].sum())
            if now - held <= _ENOUGH * max(energy - now, _ROUNDING * energy):
                return self._projected(basis, exact=True)
            held = now
        return self._projected(basis, exact=False)

    def _squared(self, basis: Any) -> Any:
        """Xᵀ(X·Q)."""
        total = self._arrays.zeros_like(basis)
        for piece in self._matrix.pieces():
            total += piece.T @ (piece @ basis)
        return total

    def _orthonormal(self, matrix: Any) -> Any:
        """An orthonormal basis of the columns, by their Gram matrix in double precision, twice.

        Six times as fast as Householder's QR for tall matrices; columns that depend on the others become zero.
        """
        arrays = self._arrays
        double = matrix.astype(np.float64)
        for _ in range(2):
            squares, vectors = arrays.linalg.eigh(double.T @ double)
            known = squares > squares[-1] * 1e-15
            scale = arrays.where(known, 1 / arrays.sqrt(arrays.where(known, squares, 1)), 0)
            double = double @ (vectors * scale)
        return double.astype(np.float32)

    def _gram(self, basis: Any) -> Any:
        """(X·Q)ᵀ(X·Q), in double precision."""
        total = self._arrays.zeros((basis.shape[1], basis.shape[1]), np.float64)
        for piece in self._matrix.pieces():
            image = (piece @ basis).astype(np.float64)
            total += image.T @ image
        return total

    def _projected(self, basis: Any, *, exact: bool) -> Decomposition:
        """X·Q is not kept, which may have as many rows as there are words: what is wanted of it is formed anew."""
        arrays = self._arrays
        squares, vectors = arrays.linalg.eigh(self._gram(basis))
        values = np.sqrt(np.maximum(on_host(squares)[::-1], 0.0))
        if not np.isfinite(values).all():
            # LAPACK does not always say so.
            raise np.linalg.LinAlgError("the Gram matrix is not finite")
        kept = int(np.count_nonzero(values > _ROUNDING * values[0])) if values[0] > 0 else 0
        count = min(self._rank, kept)
        turn = (basis.astype(np.float64) @ vectors[:, ::-1][:, :count]).astype(np.float32)
        scaled = turn / arrays.asarray(values[:count], np.float32)
        left = np.concatenate([on_host(piece @ scaled) for piece in self._matrix.pieces()])
        return Decomposition(values[:kept], left, np.ascontiguousarray(on_host(turn).T), exact)
