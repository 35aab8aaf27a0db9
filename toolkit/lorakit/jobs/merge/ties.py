"""TIES, DARE and KnOTS: merging entry by entry, of one module at a time.

TIES (Yadav et al., NeurIPS 2023): of each ΔW the entries of greatest magnitude are kept, the sign of their
weighted sum is elected, and the mean is taken over those that agree. DARE (Yu et al., ICML 2024): entries are
dropped at random and the others divided by the density. An input votes with its weight, as in mergekit
(`merge_methods/generalized_task_arithmetic.py`); the mean is peft's (`utils/merge_utils.py`), over how many agree.
Every ΔW is formed twice, so that two sums are in memory and not all inputs.

KnOTS (Stoica et al., Model merging with SVD to tie the KnOTS, ICLR 2025) is TIES where the inputs are aligned:
[ΔW₁ … ΔWₙ] = U·S·[V₁ᵀ … Vₙᵀ]. With U·S in common, what differs is in the Vᵢ, and those are merged. All of it in
the form of factors: nothing as large as ΔW is formed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorakit.jobs.merge.combine import Combined
from lorakit.lowrank.svd import Decomposition, Doubles, residual
from lorakit.modules.factors import Factors

Floats = NDArray[Any]
#: Takes out of a matrix, in place, what is not kept; the number is that of the input.
Thinning = Callable[[Floats, int], Floats]


def merged(parts: Sequence[Factors], weights: Sequence[float], thin: Thinning, *, elects: bool) -> Floats:
    """ΔW in float32: the sum of what `thin` leaves, or the mean of what is elected of it."""

    def deltas() -> Iterator[Floats]:
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            delta = part.outer.astype(np.float32) @ part.inner.astype(np.float32)
            yield np.multiply(thin(delta, number), np.float32(weight), out=delta)

    return elected(deltas) if elects else total(deltas())


def trimming(density: float) -> Thinning:
    """Keep this share of the entries, those of greatest magnitude."""

    def thin(values: Floats, _: int) -> Floats:
        count = int(density * values.size)
        if count < values.size:
            magnitudes, place = np.abs(values), values.size - count
            limit = np.partition(magnitudes, place, axis=None)[place] if count else np.inf
            values *= magnitudes >= limit
        return values

    return thin


def dropping(density: float, seed: int, name: str) -> Thinning:
    """Keep this share of the entries at random, and divide them by it.

    What is drawn depends on the seed, the module's name and the input alone, not on threads.
    """

    def thin(values: Floats, number: int) -> Floats:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
        values *= rng.random(values.shape, np.float32) < density
        values /= np.float32(density)
        return values

    return thin


def total(parts: Iterable[Floats]) -> Floats:
    """Their sum."""
    found: Floats | None = None
    for part in parts:
        found = part.copy() if found is None else np.add(found, part, out=found)
    assert found is not None
    return found


def elected(parts: Callable[[], Iterable[Floats]]) -> Floats:
    """The mean, at each place, of those entries that are not 0 and whose sign is that of the sum."""
    signs = np.sign(total(parts())).astype(np.int8)
    # At a sum of exactly 0 the sign is positive, as in peft.
    signs[signs == 0] = 1
    found: Floats | None = None
    count = np.zeros(signs.shape, np.int32)
    for part in parts():
        agrees = np.sign(part) == signs
        count += agrees
        agreeing = np.multiply(part, agrees, out=part)
        found = agreeing.copy() if found is None else np.add(found, agreeing, out=found)
    assert found is not None
    return np.divide(found, np.maximum(count, 1), out=found)


#: Directions below this share of the first singular value are rounding.
_FLOOR = 1e-6


def knots(parts: Sequence[Factors], weights: Sequence[float], rank: int, density: float) -> Combined:
    """TIES where the inputs are aligned, to a rank, with this share of the entries of each Vᵢ."""
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
