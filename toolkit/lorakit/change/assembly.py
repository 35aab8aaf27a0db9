"""Which layers a merged file has: by the first input's names, for all modules that are merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loracore.adapter import Adapter, LayerRef, Module
from loracore.errors import UsageError
from loracore.jobs.change import Stored
from lorakit.change.alignment import Group
from lorakit.change.keys import key_of, suffix_of
from lorakit.change.places import Place, factor_dtypes, kernel_shape, naming_of, new_place, place, stored_dtype
from lorakit.change.sums import Sum, roles


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
