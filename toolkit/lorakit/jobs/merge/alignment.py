"""The modules of several LoRAs side by side: which are the same of the base model, and which may be merged."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from loracore.adapter import Adapter, Module
from loracore.errors import UsageError
from loracore.paths import shown
from lorakit.modules.factors import MAX_FORMED, Factors, factors, has_factors
from lorakit.modules.inputs import naming
from lorakit.modules.matrices import Opened

#: Layers of a module that are added to its bias; all others beside the factors have no sum.
BIASES = frozenset({"up_bias", "diff_b", "b_norm"})
#: Algorithms whose layers are differences, which are added as they are.
_DIFFERENCES = frozenset({"full", "norm"})


@dataclass(frozen=True)
class Member:
    """A module of one input; `weight` is that of the input, its scale not included."""

    file: Adapter
    module: Module
    weight: float


@dataclass(frozen=True)
class Group:
    """A module of the base model and those that change it, in the inputs' order."""

    label: str
    members: tuple[Member, ...]

    @property
    def weights(self) -> list[float]:
        return [member.weight for member in self.members]

    def parts(self) -> list[Factors]:
        """The members' factors, without weights. Raises MalformedFile that names file and layer, and FileError."""
        found = []
        for member in self.members:
            with naming(member.file.path):
                found.append(factors(member.module))
        return found

    @property
    def first(self) -> Module:
        return self.members[0].module

    @property
    def shape(self) -> tuple[int, int]:
        """ΔW's as a matrix."""
        return self.first.shape[0], math.prod(self.first.shape[1:])

    @property
    def is_matrix(self) -> bool:
        """Whether ΔW is merged by its factors; else its layers are differences."""
        return has_factors(self.first)

    def check_formed(self) -> None:
        """Raises UsageError where ΔW is too large to be formed as a whole."""
        if math.prod(self.shape) > MAX_FORMED:
            raise UsageError(
                f"module {self.label[:200]!r} has a ΔW of {_dimensions(self.first)}, too large for this method; "
                "take --method svd, or --exclude it"
            )

    @property
    def size(self) -> float:
        return float(math.prod(self.first.shape)) * len(self.members)


def aligned(
    files: Sequence[Opened], weights: Sequence[float], *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[Group]:
    """The modules to merge; those of weight 0 are none.

    Raises:
        UsageError: the inputs are for different base models, a module has no ΔW that could be added, a pattern
            matches nothing, or there is nothing to merge.
    """
    _check_families([file.adapter for file in files])
    chosen = _Selection(include, exclude)
    members: dict[tuple[str, str], list[Member]] = defaultdict(list)
    for file, weight in zip(files, weights, strict=True):
        for module in file.modules:
            if chosen.takes(module) and weight:
                members[module.component, module.name].append(Member(file.adapter, module, weight))
    chosen.check()
    if not members:
        raise UsageError("nothing to merge: all modules are excluded, or all weights are 0")
    labels = _labels(members)
    groups = [Group(labels[key], tuple(found)) for key, found in members.items()]
    for group in groups:
        _check_group(group)
    return groups


def _check_families(adapters: Sequence[Adapter]) -> None:
    known = {adapter.family for adapter in adapters} - {"unknown"}
    if len(known) > 1:
        listed = ", ".join(f"{name_of(adapter)} ({adapter.family})" for adapter in adapters)
        raise UsageError(f"these are for different base models: {listed}; merge LoRAs of one base model")


def _check_group(group: Group) -> None:
    first = group.members[0]
    for member in group.members:
        module = member.module
        where = f"{name_of(member.file)}: module {module.name[:200]!r}"
        others = module.layers.keys() & {"bias", "weight", "singular"}
        if module.needs_base or others or not (has_factors(module) or module.algorithm in _DIFFERENCES):
            raise UsageError(
                f"{where} is {_word(module, others)}, which has no ΔW that could be added; bake it into its base, "
                "or leave it out with --exclude"
            )
        if has_factors(module) != group.is_matrix or module.transposed != first.module.transposed:
            raise UsageError(f"{where} is {module.algorithm}, which does not go with the others; --exclude it")
        same = module.shape[0] == first.module.shape[0] and math.prod(module.shape) == math.prod(
            first.module.shape
        )
        if not same:
            raise UsageError(
                f"{where} is {_dimensions(module)}, and {_dimensions(first.module)} in {name_of(first.file)}; "
                "they are for different base models"
            )


def _word(module: Module, others: set[str]) -> str:
    word = {"dora": "DoRA", "oft": "OFT", "ia3": "IA3", "glora": "GLoRA"}.get(module.algorithm)
    return word or (f"a whole {' and '.join(sorted(others))}" if others else module.algorithm)


def _dimensions(module: Module) -> str:
    return " × ".join(map(str, module.shape))


def _labels(members: Mapping[tuple[str, str], Sequence[Member]]) -> dict[tuple[str, str], str]:
    labels: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for component, name in members:
        label = f"{component}.{name}" if name in taken else name
        labels[component, name] = label
        taken.add(label)
    return labels


def name_of(adapter: Adapter) -> str:
    """Of its file, or of the folder that PEFT's adapters are known by, whose files have one name."""
    folder, name = os.path.split(os.fsencode(adapter.path))
    return shown(os.path.basename(folder) if name.startswith(b"adapter_model.") and folder else name)


class _Selection:
    """Patterns that say which modules are taken, and which of them matched anything."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._include = include
        self._exclude = exclude
        self._matched: set[str] = set()

    def takes(self, module: Module) -> bool:
        inside = self._any(self._include, module) or not self._include
        return not self._any(self._exclude, module) and inside

    def _any(self, patterns: Sequence[str], module: Module) -> bool:
        found = {
            pattern
            for pattern in patterns
            if fnmatchcase(module.name, pattern) or fnmatchcase(module.key, pattern)
        }
        self._matched |= found
        return bool(found)

    def check(self) -> None:
        """Raises UsageError for a pattern that is of no use, such as one with a typing error."""
        for pattern in (*self._include, *self._exclude):
            if pattern not in self._matched:
                raise UsageError(
                    f"no module is named {pattern[:80]!r}; `loractl importance` lists names, and * is any text"
                )
