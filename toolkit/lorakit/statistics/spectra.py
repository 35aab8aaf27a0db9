"""Singular values of a product of factors, without the product.

The spectrum of B·A is that of the r × r core of both Gram matrices: with BᵀB = V·w·Vᵀ and L = V√w, the squares
of the singular values are the eigenvalues of Lᵀ(A·Aᵀ)L. Everything is in double precision; what lies below about
1e-8 of the largest singular value is rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
