"""Which rank a module gets: by its singular values, by its block, or by a budget for all.

The dynamic rules are those of kohya-ss/sd-scripts, `networks/resize_lora.py` (`sv_ratio`, `sv_fro`,
`sv_cumulative`), with the smallest rank that reaches the target, and one for the knee.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from loracore.errors import UsageError
from loracore.jobs.resize import ResizeParameters
from lorakit.lowrank import svd
from lorakit.lowrank.svd import Doubles

#: The rank, from 1 on, for singular values with the largest first.
Rule = Callable[[Doubles], int]


def rule_of(parameters: ResizeParameters) -> Rule | None:
    """The dynamic rule that is asked for. Raises UsageError for several, and for a target that makes no sense."""
    given: list[Rule] = []
    if (ratio := parameters.sv_ratio) is not None:
        if not ratio >= 1:
            raise UsageError(f"--sv-ratio {ratio:g}: give the first singular value over the last kept, 1 or more")
        given.append(lambda values: by_ratio(values, ratio))
    if (share := parameters.sv_fro) is not None:
        _check_share("--sv-fro", share)
        given.append(lambda values: by_frobenius(values, share))
    if (part := parameters.sv_cumulative) is not None:
        _check_share("--sv-cumulative", part)
        given.append(lambda values: by_sum(values, part))
    if parameters.sv_knee:
        given.append(by_knee)
    if len(given) > 1:
        raise UsageError("several --sv rules: give one of them")
    return given[0] if given else None


def _check_share(option: str, share: float) -> None:
    if not 0 < share <= 1:
        raise UsageError(f"{option} {share:g}: give a share above 0 and up to 1")


def by_ratio(values: Doubles, ratio: float) -> int:
    """How many singular values are greater than the first over `ratio`."""
    return max(1, int((values > values[0] / ratio).sum()))


def by_frobenius(values: Doubles, share: float) -> int:
    """The least rank whose part has this share of ‖ΔW‖; kohya compares the squares with its square."""
    return max(1, svd.rank_for(values, share**2))


def by_sum(values: Doubles, share: float) -> int:
    """The least rank that holds this share of the sum of singular values."""
    held = np.cumsum(values)
    return min(int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1, values.size)


def by_knee(values: Doubles) -> int:
    """Where the curve of singular values lies farthest below the chord from the first to the last.

    All of them where it is straight. Which point is the farthest does not depend on how the axes are scaled.
    """
    chord = np.linspace(values[0], values[-1], values.size)
    below = chord - values
    place = int(below.argmax())
    return place + 1 if below[place] > 1e-9 * values[0] else values.size


def by_block(blocks: Sequence[str], table: Mapping[str, int]) -> dict[str, int]:
    """The rank of each block that a pattern matches, by the first that does. Raises UsageError."""
    for pattern, rank in table.items():
        if rank < 0:
            raise UsageError(f"rank {rank} for {pattern[:80]!r}: give 0 or more")
        if not any(fnmatchcase(block, pattern) for block in blocks):
            raise UsageError(f"no block is named {pattern[:80]!r}; there are {', '.join(sorted(blocks))[:400]}")
    found = {}
    for block in blocks:
        matching = [rank for pattern, rank in table.items() if fnmatchcase(block, pattern)]
        if matching:
            found[block] = matching[0]
    return found


class Claim(NamedTuple):
    """A module that wants rank: energies σ², the largest first, and the bytes of one more rank."""

    energies: Doubles
    bytes: int


def by_budget(claims: Sequence[Claim], budget: int) -> list[int]:
    """Ranks with the least energy lost whose bytes are within `budget`.

    The next rank goes where it brings most energy for a byte. Since the energies of a module fall, nothing better
    exists but for what is left of the budget in the end, less than the bytes of one rank.
    """
    ranks = [0] * len(claims)
    heap = [
        (-claim.energies[0] / claim.bytes, index)
        for index, claim in enumerate(claims)
        if claim.energies.size and claim.energies[0] > 0
    ]
    heapq.heapify(heap)
    while heap:
        _, index = heapq.heappop(heap)
        claim = claims[index]
        if claim.bytes > budget:
            continue
        budget -= claim.bytes
        ranks[index] += 1
        if ranks[index] < claim.energies.size and claim.energies[ranks[index]] > 0:
            heapq.heappush(heap, (-claim.energies[ranks[index]] / claim.bytes, index))
    return ranks
