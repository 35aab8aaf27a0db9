"""The decomposition of a product of factors is that of the product (Eckart and Young)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lorakit.jobs.merge.combine import sketched
from lorakit.lowrank.svd import Decomposition, residual
from tests.toolkit.change.files import cut

Pair = tuple[np.ndarray, np.ndarray]


@st.composite
def factors(draw: st.DrawFn) -> Pair:
    """B and A: any shapes, ranks above the sides too, falling or not, deficient, zero."""
    rows, columns, rank = (draw(st.integers(1, 40)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    outer = rng.standard_normal((rows, rank)) * 10.0 ** -(np.arange(rank) * draw(st.sampled_from((0.0, 0.2, 1.0))))
    inner = rng.standard_normal((rank, columns))
    kept = draw(st.integers(0, rank))
    outer[:, kept:] = 0
    if draw(st.booleans()):
        inner[rank // 2 :] = inner[: rank - rank // 2]
    return outer * draw(st.sampled_from((1e-6, 1.0, 1e4))), inner


@given(factors(), st.data())
def test_truncation_is_the_nearest(pair: Pair, data: st.DataObject) -> None:
    """What is lost is what a dense SVD would lose, to a billionth of the whole; both factors weigh the same."""
    outer, inner = pair
    delta = outer @ inner
    most = min(*delta.shape, outer.shape[1])
    rank = data.draw(st.integers(1, most))
    found = Decomposition(outer, inner)
    up, down = found.truncated(rank)
    assert up.shape == (len(outer), rank)
    assert down.shape == (rank, inner.shape[1])
    size = float(np.linalg.norm(delta))
    least = float(np.linalg.norm(delta - cut(delta, rank)))
    assert np.linalg.norm(delta - up @ down) <= least + 1e-9 * size
    values = np.linalg.svd(delta, compute_uv=False)
    assert np.abs(found.values[:most] - values[:most]).max() <= 1e-7 * values[0]
    assert abs(residual(found.values, rank) - least**2) <= 1e-9 * size**2
    assert np.allclose(np.linalg.norm(up, axis=0), np.linalg.norm(down, axis=1), rtol=1e-6, atol=1e-9 * size)


def test_sketches_lose_hardly_more_than_must_be() -> None:
    """Of a large matrix, whether its spectrum falls or not; the loss that is told is the real one."""
    rng = np.random.default_rng(0)
    for power in (0.0, 0.5, 1.0):
        left, right = (np.linalg.qr(rng.standard_normal((side, 600)))[0] for side in (600, 640))
        values = np.arange(1, 601) ** -power
        matrix = ((left * values) @ right.T).astype(np.float32)
        found = sketched(matrix, 16)
        least = float(np.square(values[16:]).sum())
        assert least * (1 - 1e-5) <= found.lost <= least * 1.01
        real = np.square(matrix - found.outer @ found.inner).sum()
        assert abs(real / found.lost - 1) < 1e-4
