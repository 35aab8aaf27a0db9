"""Whether anything is left of a merged ΔW beside its parts, for little.

A matrix times a few random vectors tells its size: that of Gaussian ones is ‖M‖² a vector on average, and that all
of four show less than a millionth of it has a probability below 1e-20.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.change.factors import Factors

_VECTORS = 4
#: A sum this small beside its parts is what rounding left of parts that cancel.
NEAR_ZERO = 1e-6


def vanishes(parts: Sequence[Factors], weights: Sequence[float], *, summed: bool) -> bool:
    """Whether nothing is left of a module: its parts are all zero or, where they are `summed`, cancel."""
    columns = parts[0].inner.shape[1]
    drawn = np.random.default_rng(columns).standard_normal((columns, _VECTORS))
    shown = [weight * (part.outer @ (part.inner @ drawn)) for part, weight in zip(parts, weights, strict=True)]
    sizes = sum(float(np.linalg.norm(one)) for one in shown)
    return sizes == 0 or (summed and float(np.linalg.norm(sum(shown))) <= NEAR_ZERO * sizes)
