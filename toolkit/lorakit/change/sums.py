"""Layers that are merged entry by entry: differences of whole weights, norms and biases."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loracore.adapter import LayerRef
from loracore.errors import MalformedFile, UsageError
from lorakit.change.alignment import BIASES, Group
from lorakit.change.inputs import naming


class Sum(NamedTuple):
    """The layer that holds the weighted sum of one role over a group's members."""

    role: str
    layer: LayerRef


def roles(group: Group) -> list[str]:
    """Roles of a group that are summed: its biases, and all that a difference has."""
    found = dict.fromkeys(role for member in group.members for role in member.module.layers)
    return [role for role in found if role in BIASES or not group.is_matrix]


def summed(group: Group, role: str) -> NDArray[np.float64]:
    """Σ wᵢ·(the role's tensor), over those that have it; a bias of factors has their scale.

    Raises MalformedFile for NaN and Inf, UsageError for shapes that differ, and FileError.
    """
    total: NDArray[np.float64] | None = None
    for member in group.members:
        layer = member.module.layers.get(role)
        if layer is None:
            continue
        with naming(member.file.path):
            values = member.module.tensor(role, np.float64)
            if not np.isfinite(values).all():
                raise MalformedFile(f"layer {layer.name[:200]!r} holds NaN or Inf; take another checkpoint")
        if role == "up_bias":
            values = values * member.module.scale
        if total is not None and total.shape != values.shape:
            raise UsageError(f"layer {layer.name[:200]!r} has another shape in each input; --exclude its module")
        total = member.weight * values if total is None else total + member.weight * values
    assert total is not None, role
    return total
