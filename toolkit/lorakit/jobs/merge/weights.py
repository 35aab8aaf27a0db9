"""How much of each input is merged, to which rank each module, and whether anything is left of one.

The latter costs little: a matrix times a few random vectors gives its size. That of Gaussian ones is ‖M‖² a
vector on average, and that all of four show less than a millionth of it has a probability below 1e-20.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loracore.adapter import Module
from loracore.errors import UsageError
from loracore.jobs.merge import MergeParameters
from lorakit.jobs.merge.alignment import Group
from lorakit.modules.factors import Factors
from lorakit.modules.survey import LARGEST

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


#: Methods that need ΔW entry by entry.
DENSE = frozenset({"ties", "dare_ties", "dare_linear"})


def weights_of(parameters: MergeParameters) -> tuple[float, ...]:
    """A weight for each input. Raises UsageError."""
    count = len(parameters.paths)
    if not count:
        raise UsageError("nothing to merge: give one LoRA or more")
    weights = parameters.weights or (1.0,) * count
    if len(weights) != count:
        raise UsageError(f"{len(weights)} weights for {count} LoRAs: give one for each")
    if not all(abs(weight) <= LARGEST for weight in weights):
        raise UsageError("a weight is no finite number, or too large; give such as 0.7")
    if not 0 < parameters.density <= 1:
        raise UsageError(f"density {parameters.density:g}: give a share above 0 and up to 1")
    if parameters.rank is not None and parameters.rank < 1:
        raise UsageError(f"rank {parameters.rank}: give 1 or more")
    if not parameters.normalize:
        return weights
    total = sum(weights)
    if abs(total) <= NEAR_ZERO * sum(map(abs, weights)):
        raise UsageError("the weights cancel: their sum is 0; leave --normalize out")
    return tuple(weight / total for weight in weights)


def ranks_of(groups: Sequence[Group], parameters: MergeParameters) -> dict[str, int]:
    """The rank of each module that is merged by its factors, by label. Raises UsageError."""
    matrices = [group for group in groups if group.is_matrix]
    if not matrices:
        return {}
    known = [own_rank(member.module) for group in matrices for member in group.members]
    ranks = [rank for rank in known if rank is not None]
    exact = parameters.rank is None and parameters.method == "linear"
    if parameters.rank is None and (not ranks or (exact and len(ranks) < len(known))):
        raise UsageError("LoHa and LoKr have no rank that could be kept; give --rank")
    wanted = None if exact else parameters.rank or max(ranks)
    found = {}
    for group in matrices:
        if parameters.method in DENSE:
            group.check_formed()
        most = min(group.shape)
        own = [own_rank(member.module) for member in group.members]
        total = sum(rank for rank in own if rank is not None)
        if None not in own and parameters.method not in DENSE:
            most = min(most, total)
        found[group.label] = most if wanted is None else min(wanted, most)
    if parameters.rank is not None and parameters.rank > max(found.values()):
        raise UsageError(f"rank {parameters.rank}: no module can have more than {max(found.values())}; give less")
    return found


def own_rank(module: Module) -> int | None:
    """The rank of a module's ΔW by its factors; None for LoHa and LoKr, whose rank is another thing."""
    return module.rank if module.algorithm in {"lora", "locon"} else None
