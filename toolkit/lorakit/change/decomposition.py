"""The singular value decomposition of a product of factors, without the product.

With L·Lᵀ = BᵀB and the eigenvectors q and eigenvalues σ² of Lᵀ(A·Aᵀ)L, the singular vectors of B·A are
u = B·(A·Aᵀ)·L·q / σ² and v = Aᵀ·L·q / σ. All of it is r × r but for two Gram matrices and two products, in double
precision, where singular values are right to about 1e-8 of the largest. Directions that are wanted and lie lower
than `_FLOOR` are found by QR of both factors and the SVD of the r × r core, which costs more and loses nothing.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np

from lorakit.change.device import on_host
from lorakit.statistics.spectra import Doubles

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
