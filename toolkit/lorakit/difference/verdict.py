"""What the leading singular values of a difference say: a LoRA, rounding, or neither, and which rank holds it.

White noise of variance v in a d × n matrix has no singular value above √v·(√d + √n) (Marchenko and Pastur). What
rises above that edge is signal; v is that of rounding to the stored dtype, or of what the values leave.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorakit.lowrank import svd

#: Ranks at which the energy is told.
RANKS = (4, 8, 16, 32, 64, 128)
#: Ranks that are suggested.
_SUGGESTED = (1, 2, 4, 8, 16, 32, 64, 128)
#: Singular values that are asked for.
KNOWN = RANKS[-1]
#: Above the edge by so much is signal; below this part of the greatest value is the arithmetic's rounding.
_ABOVE, _ROUNDING = 1.1, 1e-4
#: What a LoRA's rank leaves of ‖X‖²: this share, or the energy of rounding and a half more.
_LEFT, _FLOORS = 1e-3, 1.5
#: Rounding moves an entry by one place, so that ‖X‖² is at most twelve times that of rounding noise.
_ONE_PLACE = 12.0
_SHARE = 0.9


class Spectrum(msgspec.Struct, frozen=True):
    """Of a layer's difference. `values`: the leading singular values. `floor`: the energy of rounding, at most."""

    rows: int
    columns: int
    energy: float
    floor: float
    values: tuple[float, ...]


class Verdict(msgspec.Struct, frozen=True):
    """`effective_rank`: e^H of the singular values above the noise. `energies`: share of ‖X‖² at each of RANKS.

    `signal_rank`: how many singular values rise above the noise; None for more than are known.
    """

    effective_rank: float
    stable_rank: float
    signal_rank: int | None
    energies: dict[str, float]
    looks_like_lora: bool
    only_rounding: bool
    suggested_rank: int


def judge(found: Spectrum) -> Verdict:
    """What a spectrum says."""
    values = np.array(found.values, np.float64)
    held = np.minimum(np.cumsum(values**2) / found.energy, 1.0) if found.energy > 0 else np.zeros_like(values)
    side = min(found.rows, found.columns)
    only_rounding = _is_rounding(found, values)
    signal = 0 if only_rounding else _signal(found, values)
    known = signal < KNOWN
    left = found.energy - float((values[:signal] ** 2).sum())
    small = known and signal <= max(1, side // 4)
    lora = small and signal > 0 and left <= max(_LEFT * found.energy, _FLOORS * found.floor)
    return Verdict(
        effective_rank=svd.effective_rank(values[:signal]) if signal else 0.0,
        stable_rank=found.energy / float(values[0]) ** 2 if len(values) and values[0] > 0 else 0.0,
        signal_rank=signal if known else None,
        energies={str(rank): float(held[min(rank, len(held)) - 1]) if len(held) else 0.0 for rank in RANKS},
        looks_like_lora=lora,
        only_rounding=only_rounding,
        suggested_rank=0 if only_rounding else _suggested(signal if lora else _rank_for(found, held)),
    )


def _is_rounding(found: Spectrum, values: NDArray[np.float64]) -> bool:
    """Entries move by a place at most, and the matrix cannot be told from white noise."""
    if not found.floor or found.energy > _ONE_PLACE * found.floor or not len(values):
        return False
    return bool(values[0] <= 1.3 * _edge(found, found.energy))


def _signal(found: Spectrum, values: NDArray[np.float64]) -> int:
    noise = min(found.floor, found.energy)
    least = max(_ABOVE * _edge(found, noise), _ROUNDING * float(values[0]) if len(values) else 0.0)
    return int(np.count_nonzero(values > least))


def _edge(found: Spectrum, energy: float) -> float:
    return float((energy / (found.rows * found.columns)) ** 0.5 * (found.rows**0.5 + found.columns**0.5))


def _rank_for(found: Spectrum, held: NDArray[np.float64]) -> int:
    """The least rank that holds 90 % of what is not rounding; or all that is known."""
    wanted = _SHARE * max(0.0, 1 - min(found.floor / found.energy, 1.0)) if found.energy > 0 else 0.0
    return int(np.searchsorted(held, wanted)) + 1


def _suggested(rank: int) -> int:
    return next((one for one in _SUGGESTED if one >= rank), _SUGGESTED[-1])
