"""Matrices that real files do not have: spectra to the floor, percentiles of any distribution, bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.lowrank import svd
from lorakit.statistics.matrix import PERCENTILES, Bounds, Entries, Product
from lorakit.statistics.scan import Workspace
from lorakit.statistics.shares import covering, softmax

SHAPES = [(640, 320, 4), (64, 64, 64), (32, 48, 100), (7, 500, 9), (500, 7, 9), (1, 1, 1), (1, 40, 3), (40, 1, 3)]


def product(outer: np.ndarray, inner: np.ndarray, scale: float = 1.0, bounds: Bounds | None = None) -> Product:
    bounds, workspace = bounds or Bounds(), Workspace()
    return Product(Entries(outer, bounds, workspace), Entries(inner, bounds, workspace), scale, bounds, workspace)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, -0.25])
def test_spectra_of_a_product_are_those_of_the_product(shape: tuple[int, int, int], scale: float) -> None:
    """Tall, wide, square, with more rank than there is room for; to 1e-8 of the greatest."""
    rows, columns, rank = shape
    rng = np.random.default_rng(1)
    outer, inner = rng.standard_normal((rows, rank)), rng.standard_normal((rank, columns))
    found = product(outer, inner, scale).singular_values
    assert found is not None
    whole = np.linalg.svd(scale * outer @ inner, compute_uv=False)
    assert len(found) == min(shape)
    assert np.abs(found - whole[: len(found)]).max() < 1e-7 * whole[0]


def test_rank_deficient_and_zero_factors_have_spectra() -> None:
    rng = np.random.default_rng(2)
    outer, inner = rng.standard_normal((50, 6)), rng.standard_normal((6, 40))
    outer[:, 3:] = outer[:, :3]
    found = product(outer, inner).singular_values
    assert found is not None
    assert svd.rank_for(found, 1 - 1e-9) == 3
    zero = product(np.zeros((50, 6)), inner).singular_values
    assert zero is not None
    assert (svd.effective_rank(zero), svd.stable_rank(zero), svd.rank_for(zero, 0.9)) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["normal", "heavy", "shifted", "two values", "sparse", "one outlier", "tiny"])
@pytest.mark.parametrize("exact", [False, True])
def test_percentiles_of_any_distribution(kind: str, exact: bool) -> None:
    """Within 1e-3 of the standard deviation by the histogram; to the last bit by sorting."""
    rng = np.random.default_rng(3)
    values = {
        "normal": lambda: rng.standard_normal((300, 999)),
        "heavy": lambda: rng.standard_cauchy((300, 999)).clip(-1e6, 1e6),
        "shifted": lambda: rng.standard_normal((300, 999)) + 1000,
        "two values": lambda: rng.integers(0, 2, (300, 999)).astype(float),
        "sparse": lambda: rng.standard_normal((300, 999)) * (rng.random((300, 999)) < 0.02),
        "one outlier": lambda: np.concatenate([np.ones((1, 999)), [[1e9] + [0] * 998]]),
        "tiny": lambda: rng.standard_normal((2, 3)) * 1e-30,
    }[kind]()
    matrix = Entries(values, Bounds(dtype=np.float64, exact=exact), Workspace())
    assert matrix.percentiles is not None
    for percent, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True):
        allowed = 1e-12 * abs(value) if exact else 1e-3 * values.std()
        assert abs(matrix.percentiles[percent] - value) <= allowed


def test_entries_beyond_single_precision_are_not_infinite() -> None:
    outer, inner = np.full((4, 2), 1e25), np.full((2, 4), 1e25)
    matrix = product(outer, inner)
    assert matrix.scan.maximum == pytest.approx(2e50)


def test_memory_is_bounded_whatever_the_size_of_delta() -> None:
    """ΔW of 64 million entries has 256 MB; what is held is blocks of it, also for exact percentiles."""
    rng = np.random.default_rng(4)
    outer, inner = rng.standard_normal((8192, 4)), rng.standard_normal((4, 8192))
    matrix = product(outer, inner, bounds=Bounds(exact=True))
    tracemalloc.start()
    try:
        assert matrix.percentiles is not None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 48 << 20


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12), st.floats(0.01, 1))
def test_the_covering_set_reaches_the_threshold_and_needs_each_of_its_members(
    values: list[float], threshold: float
) -> None:
    shares = {str(index): value for index, value in enumerate(values)}
    chosen = covering(shares, threshold)
    total = sum(values)
    held = sum(shares[name] for name in chosen)
    assert held >= threshold * total * (1 - 1e-9)
    if chosen:
        assert held - min(shares[name] for name in chosen) < threshold * total


def test_softmax_leaves_out_what_is_not_known() -> None:
    assert softmax([None, 1000.0, 1000.0]) == [None, 0.5, 0.5]
    assert softmax([None]) == [None]
