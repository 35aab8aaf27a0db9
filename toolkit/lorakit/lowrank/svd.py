"""The singular values of a product of factors, and its singular value decomposition, without the product.

The spectrum of B·A is that of the r × r core of both Gram matrices: with BᵀB = V·w·Vᵀ and L = V√w, so that L·Lᵀ =
BᵀB, the squares of the singular values are the eigenvalues σ² of Lᵀ(A·Aᵀ)L. With its eigenvectors q, the singular
vectors of B·A are u = B·(A·Aᵀ)·L·q / σ² and v = Aᵀ·L·q / σ. All of it is r × r but for two Gram matrices and two
products, in double precision, where singular values are right to about 1e-8 of the largest; what lies below is
rounding. Directions that are wanted and lie lower than `_FLOOR` are found by QR of both factors and the SVD of
the r × r core, which costs more and loses nothing.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorakit.lowrank.device import on_host

Doubles = NDArray[np.float64]


def gram(matrix: NDArray[np.floating]) -> Doubles:
    """The smaller of M·Mᵀ and Mᵀ·M."""
    double = matrix.astype(np.float64, copy=False)
    return double @ double.T if matrix.shape[0] <= matrix.shape[1] else double.T @ double


def from_gram(square: NDArray[np.floating]) -> Doubles:
    """Singular values, the largest first, of a matrix with this Gram matrix."""
    return _roots(np.linalg.eigvalsh(square))


def of_product(outer: NDArray[np.floating], gram_b: Doubles, gram_a: Doubles, columns: int) -> Doubles:
    """Singular values of B·A, with B (d × r), BᵀB, A·Aᵀ and the columns k of A; min(d, k, r) of them."""
    rows, rank = outer.shape
    if rank <= min(rows, columns):
        weights, vectors = np.linalg.eigh(gram_b)
        half = vectors * np.sqrt(np.maximum(weights, 0))
        return from_gram(half.T @ gram_a @ half)
    # More rank than there is room for: the square of the small side is quicker.
    double = outer.astype(np.float64, copy=False)
    return from_gram(double @ gram_a @ double.T)[: min(rows, columns)]


def effective_rank(values: Doubles) -> float:
    """By the entropy H of the singular values' shares, e^H (Roy and Vetterli, EUSIPCO 2007); 0 for zeros."""
    if not values.size or values[0] <= 0:
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def stable_rank(values: Doubles) -> float:
    """‖M‖²_F / ‖M‖²₂; 0 for a zero matrix."""
    if not values.size or values[0] <= 0:
        return 0.0
    return float(((values / values[0]) ** 2).sum())


def cumulative_energy(values: Doubles) -> Doubles:
    """Share of ‖M‖²_F in the first 1, 2, … singular values; zeros for a zero matrix."""
    if not values.size or values[0] <= 0:
        return np.zeros_like(values)
    squares = (values / values[0]) ** 2
    held: Doubles = np.minimum(np.cumsum(squares) / squares.sum(), 1.0)
    return held


def rank_for(values: Doubles, share: float) -> int:
    """The least number of singular values that hold `share` of ‖M‖²_F; 0 for a zero matrix."""
    if not values.size or values[0] <= 0:
        return 0
    place = int(np.searchsorted(cumulative_energy(values), share * (1 - 1e-12)))
    return min(place + 1, int(values.size))


def _roots(eigenvalues: NDArray[np.floating]) -> Doubles:
    return np.asarray(np.sqrt(np.maximum(eigenvalues, 0))[::-1], np.float64)


#: Of the largest singular value: above it, a direction by Gram matrices is wrong by less than 1e-7.
_FLOOR = 3e-5


class Decomposition:
    """Of B·A, with B (d × r) and A (r × k) in float64, arrays of `xp` (numpy or CuPy)."""

    def __init__(self, outer: Any, inner: Any, xp: Any = np) -> None:
        self.module = xp
        rows, rank = outer.shape
        columns = inner.shape[1]
        # More rank than there is room for: the product itself is the smaller factor.
        if rank > rows and rows <= columns:
            outer, inner = xp.eye(rows), outer @ inner
        elif rank > columns:
            outer, inner = outer @ inner, xp.eye(columns)
        self._outer, self._inner = outer, inner

    @cached_property
    def _core(self) -> tuple[Any, Any, Any, Any]:
        """A·Aᵀ, L, eigenvalues with the largest first, their eigenvectors."""
        xp = self.module
        gram = self._inner @ self._inner.T
        half = _half(self._outer.T @ self._outer, xp)
        square = half.T @ gram @ half
        weights, vectors = xp.linalg.eigh((square + square.T) / 2)
        return gram, half, xp.maximum(weights[::-1], 0), vectors[:, ::-1]

    @cached_property
    def values(self) -> Doubles:
        """Singular values, the largest first; what lies below 1e-8 of it is rounding."""
        weights = self._core[2]
        found: Doubles = np.sqrt(on_host(weights))
        return found

    def truncated(self, rank: int) -> tuple[Any, Any]:
        """(B', A') with the product nearest to B·A of all of this rank (Eckart and Young), √S on both."""
        values = self.values[:rank]
        if not values.size or values[0] <= 0:
            return self._outer[:, :rank] * 0, self._inner[:rank] * 0
        if values[-1] < _FLOOR * values[0]:
            return self._by_qr(rank)
        gram, half, weights, vectors = self._core
        roots = weights[:rank] ** 0.25
        directions = half @ vectors[:, :rank]
        return self._outer @ (gram @ directions / roots**3), (directions / roots).T @ self._inner

    def _by_qr(self, rank: int) -> tuple[Any, Any]:
        xp = self.module
        left, upper = xp.linalg.qr(self._outer)
        right, lower = xp.linalg.qr(self._inner.T)
        first, values, second = xp.linalg.svd(upper @ lower.T, full_matrices=False)
        roots = xp.sqrt(values[:rank])
        return left @ (first[:, :rank] * roots), (second[:rank].T * roots).T @ right.T


def _half(gram: Any, xp: Any) -> Any:
    """L with L·Lᵀ = the matrix: by Cholesky, or by eigenvectors where it is singular."""
    # CuPy's does not say that it failed.
    if xp is np:
        with suppress(np.linalg.LinAlgError):
            return np.linalg.cholesky(gram)
    weights, vectors = xp.linalg.eigh(gram)
    return vectors * xp.sqrt(xp.maximum(weights, 0))


def residual(values: Doubles, rank: int) -> float:
    """‖ΔW - ΔW'‖² for the best ΔW' of this rank."""
    rest = values[rank:]
    return float(rest @ rest)
