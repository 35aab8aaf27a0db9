"""What singular values say: a LoRA under rounding, rounding alone, a change of full rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lorakit.difference.verdict import KNOWN, Spectrum, judge


def spectrum(matrix: Any, floor: float) -> Spectrum:
    values = np.linalg.svd(matrix, compute_uv=False)
    return Spectrum(*matrix.shape, float((matrix**2).sum()), floor, tuple(values[:KNOWN].tolist()))


def low_rank(rank: int, side: int = 400, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((side, rank)) @ rng.standard_normal((rank, side))


@pytest.mark.parametrize("rank", [1, 4, 11, 64])
@pytest.mark.parametrize("noise", [0.0, 1e-4, 0.3])
def test_a_lora_is_known_under_rounding(rank: int, noise: float) -> None:
    """Of any rank up to a quarter of the side; the suggested rank is the next one that is usual."""
    matrix = low_rank(rank)
    rounding = noise * np.random.default_rng(1).standard_normal(matrix.shape)
    found = judge(spectrum(matrix + rounding, float((rounding**2).sum())))
    assert found.looks_like_lora
    assert not found.only_rounding
    assert found.signal_rank == rank
    assert found.suggested_rank == min(one for one in (1, 2, 4, 8, 16, 32, 64) if one >= rank)
    assert found.effective_rank <= rank + 1e-6


def test_energies_are_shares_at_each_rank() -> None:
    matrix = low_rank(40)
    values = np.linalg.svd(matrix, compute_uv=False)
    found = judge(spectrum(matrix, 0.0))
    assert list(found.energies) == ["4", "8", "16", "32", "64", "128"]
    for rank, share in found.energies.items():
        assert share == pytest.approx((values[: int(rank)] ** 2).sum() / (values**2).sum())
    assert found.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2)


def test_a_change_of_full_rank_is_no_lora() -> None:
    matrix = np.random.default_rng(0).standard_normal((400, 400))
    found = judge(spectrum(matrix, 1e-6))
    assert (found.looks_like_lora, found.only_rounding, found.signal_rank) == (False, False, None)
    assert found.suggested_rank == KNOWN


def test_white_noise_of_a_place_is_rounding_and_a_greater_one_is_not() -> None:
    """Twelve times the energy of rounding is one place for every entry."""
    matrix = np.random.default_rng(0).standard_normal((300, 500))
    energy = float((matrix**2).sum())
    assert judge(spectrum(matrix, energy)).only_rounding
    assert judge(spectrum(matrix, energy)).suggested_rank == 0
    assert not judge(spectrum(matrix, energy / 100)).only_rounding


@pytest.mark.parametrize("values", [(), (0.0,)])
def test_nothing_is_nothing(values: Sequence[float]) -> None:
    found = judge(Spectrum(3, 3, 0.0, 0.0, tuple(values)))
    assert (found.looks_like_lora, found.effective_rank) == (False, 0.0)
