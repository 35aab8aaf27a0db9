"""Ranks by singular values, blocks and budgets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loracore.errors import UsageError
from lorakit.jobs.resize.ranks import Claim, by_block, by_budget, by_frobenius, by_knee, by_ratio, by_sum

VALUES = np.array([8.0, 4.0, 2.0, 1.0, 1.0])


def test_rules_keep_the_smallest_rank_that_reaches_the_target() -> None:
    """Kohya's definitions, at and beside the places where they turn."""
    assert [by_ratio(VALUES, ratio) for ratio in (1, 2, 2.1, 4.1, 8, 8.1)] == [1, 1, 2, 3, 3, 5]
    assert [by_sum(VALUES, share) for share in (0.1, 0.5, 0.51, 0.75, 0.875, 1.0)] == [1, 1, 2, 2, 3, 5]
    for rank in range(1, 6):
        held = float(np.linalg.norm(VALUES[:rank]) / np.linalg.norm(VALUES))
        assert by_frobenius(VALUES, held) == rank
        assert by_frobenius(VALUES, held + 1e-6) == min(rank + 1, 5)
    assert by_knee(VALUES) == 3
    assert by_knee(np.array([5.0, 4.0, 3.0])) == 3
    assert by_knee(np.array([1.0])) == 1


def test_zeros_have_rank_1() -> None:
    zeros = np.zeros(4)
    assert (by_ratio(zeros, 2), by_frobenius(zeros, 0.9), by_sum(zeros, 0.9)) == (1, 1, 1)


def test_the_first_pattern_that_matches_a_block_counts() -> None:
    table = {"down_blocks.0": 2, "down_blocks.*": 4}
    assert by_block(["down_blocks.0", "down_blocks.1", "mid_block"], table) == {
        "down_blocks.0": 2,
        "down_blocks.1": 4,
    }
    with pytest.raises(UsageError, match="up_blocks"):
        by_block(["down_blocks.0"], {"up_blocks.*": 4})
    with pytest.raises(UsageError, match="-1"):
        by_block(["a"], {"a": -1})


@given(
    st.lists(st.tuples(st.lists(st.integers(1, 50), min_size=1, max_size=3), st.just(5)), min_size=1, max_size=4),
    st.integers(0, 60),
)
def test_no_other_ranks_within_a_budget_lose_less(listed: list[tuple[list[int], int]], budget: int) -> None:
    """By trying all of them, where a rank costs the same everywhere."""
    claims = [Claim(np.sort(np.array(energies, float))[::-1], cost) for energies, cost in listed]

    def kept(ranks: tuple[int, ...]) -> float:
        return sum(float(claim.energies[:rank].sum()) for claim, rank in zip(claims, ranks, strict=True))

    found = tuple(by_budget(claims, budget))
    assert sum(claim.bytes * rank for claim, rank in zip(claims, found, strict=True)) <= budget
    choices = itertools.product(*(range(claim.energies.size + 1) for claim in claims))
    within = [
        ranks
        for ranks in choices
        if sum(claim.bytes * rank for claim, rank in zip(claims, ranks, strict=True)) <= budget
    ]
    assert kept(found) == pytest.approx(max(map(kept, within)))


def test_a_budget_goes_where_a_byte_brings_most() -> None:
    """A rank that costs ten times as much has to hold ten times as much; what is zero gets nothing."""
    claims = [
        Claim(np.array([100.0, 10.0]), 100),
        Claim(np.array([30.0, 20.0, 5.0]), 10),
        Claim(np.array([0.0]), 1),
    ]
    assert by_budget(claims, 120) == [1, 2, 0]
    assert by_budget(claims, 20) == [0, 2, 0]
