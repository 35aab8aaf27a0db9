"""What modules and blocks weigh among all others of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def softmax(values: Sequence[float | None]) -> list[float | None]:
    """e^x over the sum of all; those that are not known stay so and weigh nothing."""
    known = np.array([value for value in values if value is not None], np.float64)
    if not known.size:
        return [None] * len(values)
    weights = np.exp(known - known.max())
    shares = iter((weights / weights.sum()).tolist())
    return [None if value is None else next(shares) for value in values]


def covering(shares: Mapping[str, float], threshold: float) -> tuple[str, ...]:
    """The smallest set of names whose shares reach `threshold` of their sum, the greatest first."""
    total = sum(shares.values())
    chosen: list[str] = []
    covered = 0.0
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        # A hair less counts, so that 1.0 does not ask for blocks that are all zero.
        if total <= 0 or covered >= threshold * total * (1 - 1e-12):
            break
        chosen.append(name)
        covered += share
    return tuple(chosen)
