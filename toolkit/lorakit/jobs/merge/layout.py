"""Which layers a merged file has, by the first input's names, and those that are merged entry by entry.

The latter are differences of whole weights, norms and biases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loracore.adapter import Adapter, LayerRef, Module
from loracore.errors import MalformedFile, UsageError
from loracore.jobs.change import Stored
from loracore.names.conventions import key_of, suffix_of
from lorakit.jobs.merge.alignment import BIASES, Group
from lorakit.modules.inputs import naming
from lorakit.output.factor_layers import (
    Place,
    factor_dtypes,
    kernel_shape,
    naming_of,
    new_place,
    place,
    stored_dtype,
)


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


class Assembly:
    """Places for the factors of each group, and for what is summed, by the groups' labels."""

    def __init__(
        self, first: Adapter, groups: Sequence[Group], ranks: Mapping[str, int], dtype: Stored | None
    ) -> None:
        """Raises UsageError where the first input's convention has no name for a module of another."""
        self._convention = naming_of(first.convention)
        families = {member.file.family for group in groups for member in group.members} - {"unknown"}
        self._family = next(iter(families), "unknown")
        self._dtype = dtype
        self.ranks = {group.label: ranks[group.label] for group in groups if group.label in ranks}
        self._stems = {group.label: self._stem(group) for group in groups}
        self.places = {
            group.label: self._place(group, self.ranks[group.label]) for group in groups if group.is_matrix
        }
        self.sums = {group.label: [self._sum(group, role) for role in roles(group)] for group in groups}
        self.layers = [layer for where in self.places.values() for layer in where.layers]
        self.layers += [one.layer for listed in self.sums.values() for one in listed]

    @property
    def keys(self) -> list[tuple[str, int]]:
        """Keys in the file and ranks, of modules that have one."""
        return [(self._stems[label], rank) for label, rank in self.ranks.items()]

    def _is_named(self, group: Group) -> bool:
        """Whether the module's own names are of the result's convention."""
        return naming_of(group.members[0].file.convention) == self._convention

    def _stem(self, group: Group) -> str:
        module = group.first
        if self._is_named(group):
            return module.key
        if module.transposed or "embedding_up" in module.layers:
            raise UsageError(
                f"module {module.name[:200]!r} lies transposed, "
                f"which {self._convention} has no name for; --exclude it"
            )
        return key_of(self._convention, module.component, module.name, self._family)

    def _place(self, group: Group, rank: int) -> Place:
        first, alpha = group.first, float(rank)
        if self._is_named(group) and ("up" in first.layers or "embedding_up" in first.layers):
            return place(first, rank, alpha, dtype=self._dtype)
        shapes = [kernel_shape(member.module, self._family) for member in group.members]
        return new_place(
            self._stems[group.label], self._convention, first.component, max(shapes, key=len),
            rank=rank, alpha=alpha, dtype=self._stored(first),
        )  # fmt: skip

    def _sum(self, group: Group, role: str) -> Sum:
        given = next(member.module.layers[role] for member in group.members if role in member.module.layers)
        name = given.name
        if not self._is_named(group) or role not in group.first.layers:
            name = self._stems[group.label] + suffix_of(self._convention, role, group.first.component)
        return Sum(role, LayerRef(name, stored_dtype(given.dtype, self._dtype), given.shape))

    def _stored(self, module: Module) -> str:
        return stored_dtype(next(iter(factor_dtypes(module))), self._dtype)
