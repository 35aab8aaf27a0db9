"""How large a merged ΔW is beside its parts, and whether all of them are numbers, for little.

A matrix times a few random vectors tells its size: that of Gaussian ones is ‖M‖² a vector on average, and that all
of four show less than a millionth of it has a probability below 1e-20.
"""

from __future__ import annotations

import numpy as np

from lorakit.change.alignment import Group
from lorakit.change.combining import read
from lorakit.change.factors import has_factors
from lorakit.change.inputs import naming

_VECTORS = 4
#: A sum this small beside its parts is what rounding left of parts that cancel.
NEAR_ZERO = 1e-6


def vanishes(group: Group, *, summed: bool) -> bool:
    """Whether nothing is left of a module: its parts are all zero or, where they are `summed`, cancel.

    Raises MalformedFile that names the layer with NaN or Inf, and FileError.
    """
    drawn = np.random.default_rng(group.shape[1]).standard_normal((group.shape[1], _VECTORS), np.float32)
    total, sizes = np.zeros(1), 0.0
    for member in group.members:
        module = member.module
        pair = module.pair() if has_factors(module) else None
        if pair is not None:
            outer, inner, scale = pair
            with np.errstate(all="ignore"):
                shown = (outer @ (inner @ drawn)).astype(np.float64) * scale
        if pair is None or not np.isfinite(shown).all():
            with naming(member.file.path):
                found = read(member)
            shown = found.outer @ (found.inner @ drawn)
        total = total + member.weight * shown
        sizes += abs(member.weight) * float(np.linalg.norm(shown))
    return sizes == 0 or (summed and float(np.linalg.norm(total)) <= NEAR_ZERO * sizes)
