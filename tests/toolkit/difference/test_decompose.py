"""Decompositions: near the optimum of Eckart and Young, or at it, from memory and from pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lorakit.difference.decompose import Quality, decompose, residual
from lorakit.difference.rows import Rows, of_array


def decaying(rows: int, columns: int) -> NDArray[Any]:
    rng = np.random.default_rng(rows)
    side = min(rows, columns)
    left = np.linalg.qr(rng.standard_normal((rows, side)))[0]
    right = np.linalg.qr(rng.standard_normal((columns, side)))[0]
    return ((left * np.exp(-np.arange(side) / 30)) @ right.T).astype(np.float32)


def noise(rows: int, columns: int) -> NDArray[Any]:
    return np.random.default_rng(rows).standard_normal((rows, columns), np.float32)


def pieces(matrix: NDArray[Any]) -> Rows:
    """As a matrix that is too large for the memory comes."""
    shape = (matrix.shape[0], matrix.shape[1])
    return Rows(shape, lambda: (matrix[start : start + 37].copy() for start in range(0, len(matrix), 37)), None)


@pytest.mark.parametrize("make", [of_array, pieces])
@pytest.mark.parametrize(("matrix", "quality", "above"), [
    (decaying(300, 500), "fast", 1e-6), (decaying(500, 300), "fast", 1e-6), (noise(400, 400), "fast", 4e-3),
    (decaying(300, 500), "exact", 1e-6), (decaying(500, 300), "exact", 1e-6),
])  # fmt: skip
def test_the_error_is_near_the_optimum(make: Any, matrix: NDArray[Any], quality: Quality, above: float) -> None:
    rank = 16
    found = decompose(make(matrix), rank, quality=quality)
    outer, inner = found.factors(rank)
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    optimum = np.sqrt((values[rank:] ** 2).sum())
    left = np.linalg.norm(matrix.astype(np.float64) - outer.astype(np.float64) @ inner)
    assert optimum * (1 - 1e-6) <= left <= optimum * (1 + above)
    assert residual(make(matrix), outer, inner) == pytest.approx(left**2, rel=1e-4)


def test_exact_is_the_optimum_also_of_white_noise() -> None:
    matrix = noise(500, 400)
    found = decompose(of_array(matrix), 8, quality="exact")
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    assert found.values[:8] == pytest.approx(values[:8], rel=1e-6)
    assert found.exact


def test_factors_share_the_singular_values_and_are_zero_beyond_them() -> None:
    """A matrix of rank 3, in one of rank 5."""
    matrix = noise(60, 3) @ noise(3, 80)
    found = decompose(of_array(matrix), 5)
    assert len(found.values) == 3
    outer, inner = found.factors(5)
    assert not outer[:, 3:].any()
    assert not inner[3:].any()
    assert np.allclose(outer @ inner, matrix, atol=1e-4)
    assert np.linalg.norm(outer, axis=0) == pytest.approx(np.linalg.norm(inner, axis=1), rel=1e-4)


def test_a_zero_matrix_has_no_values() -> None:
    found = decompose(of_array(np.zeros((30, 40), np.float32)), 4)
    assert len(found.values) == 0
    assert not found.factors(4)[0].any()


def test_the_same_seed_gives_the_same_factors() -> None:
    one, other = (decompose(of_array(noise(300, 300)), 4, seed=7) for _ in range(2))
    assert np.array_equal(one.left, other.left)
