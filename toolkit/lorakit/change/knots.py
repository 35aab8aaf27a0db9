"""KnOTS: TIES where the inputs are aligned (Stoica et al., Model merging with SVD to tie the KnOTS, ICLR 2025).

[ΔW₁ … ΔWₙ] = U·S·[V₁ᵀ … Vₙᵀ]: with U·S in common, what differs is in the Vᵢ, and those are merged. All of it in
the form of factors: nothing as large as ΔW is formed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.change.combining import Combined
from lorakit.change.decomposition import Decomposition, residual
from lorakit.change.election import elected, trimming
from lorakit.change.factors import Factors
from lorakit.statistics.spectra import Doubles

#: Directions below this share of the first singular value are rounding.
_FLOOR = 1e-6


def merged(parts: Sequence[Factors], weights: Sequence[float], rank: int, density: float) -> Combined:
    """To a rank, with this share of the entries of each Vᵢ."""
    common, rights = aligned(parts)
    thin = trimming(density)
    weighted = [thin(right, 0) * weight for right, weight in zip(rights, weights, strict=True)]
    found = Decomposition(common, elected(lambda: [part.copy() for part in weighted]))
    outer, inner = found.truncated(rank)
    return Combined(outer, inner, residual(found.values, rank), residual(found.values, 0))


def aligned(parts: Sequence[Factors]) -> tuple[Doubles, list[Doubles]]:
    """U·S, and V₁ᵀ … Vₙᵀ."""
    outers, uppers, rights = [], [], []
    for part in parts:
        right, lower = np.linalg.qr(part.inner.T)
        outers.append(part.outer @ lower.T)
        rights.append(right)
        uppers.append(right.shape[1])
    left, values, vectors = np.linalg.svd(np.hstack(outers), full_matrices=False)
    kept = int((values > _FLOOR * values[0]).sum()) or 1
    ends = np.cumsum(uppers)[:-1]
    pieces = np.split(vectors[:kept], ends, axis=1)
    return left[:, :kept] * values[:kept], [piece @ right.T for piece, right in zip(pieces, rights, strict=True)]
