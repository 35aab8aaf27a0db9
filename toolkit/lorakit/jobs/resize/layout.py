"""Which layers a file of resized modules has, by the ranks of its modules."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property

from loracore.adapter import LayerRef, Module
from loracore.jobs.resize import ResizeParameters
from lorakit.modules.matrices import Opened
from lorakit.output import carried as carrying
from lorakit.output import safetensors
from lorakit.output.carried import Carried
from lorakit.output.containers import CHECKPOINTS
from lorakit.output.factor_layers import Place, place

#: What a record of torch's zip container costs beside its bytes: headers, alignment, its place in the pickle.
_RECORD = 640
#: Our metadata, and numbers of the header that get longer.
_MARGIN, _MARGIN_OF_LAYER = 4096, 16


class NewLayout:
    """The layers of a result. `ranks`: None for a module that is kept as it is, 0 for one that is left out."""

    def __init__(self, file: Opened, ranks: Mapping[Module, int | None], parameters: ResizeParameters) -> None:
        self.ranks = ranks
        self._path = os.fsdecode(parameters.writing.path)
        self._given = file.adapter.metadata
        dtype = parameters.writing.dtype
        self._method = parameters.method
        self.places: dict[Module, Place] = {}
        self.carried: dict[Module, list[Carried]] = {}
        self.loose = list(carrying.loose(file.adapter, dtype))
        for module, rank in ranks.items():
            if rank is None:
                self.carried[module] = list(carrying.kept(module, dtype))
            elif rank:
                self.places[module] = place(
                    module, rank, self.alpha_of(module, rank), dtype=dtype, family=file.adapter.family
                )
                factor = 1.0 if self.keeps_scale(module) else module.scale
                self.carried[module] = list(carrying.beside(module, dtype, factor))

    @cached_property
    def layers(self) -> list[LayerRef]:
        carried = [each.made for listed in (self.loose, *self.carried.values()) for each in listed]
        return [layer for one in self.places.values() for layer in one.layers] + carried

    @property
    def left(self) -> dict[Module, int | None]:
        """The rank of each module that is in the result."""
        return {module: module.rank if rank is None else rank for module, rank in self.ranks.items() if rank != 0}

    @property
    def alphas(self) -> list[float | None]:
        """Of the modules that are in the result."""
        return [
            module.alpha if rank is None else self.alpha_of(module, rank)
            for module, rank in self.ranks.items()
            if rank != 0
        ]

    def keeps_scale(self, module: Module) -> bool:
        """Whether the scale stays beside the factors, which then are not touched."""
        return self._method != "svd" and "alpha" in module.layers

    def alpha_of(self, module: Module, rank: int) -> float:
        """Alpha such that ΔW's scale is kept: the new rank where the factors hold it."""
        return module.scale * rank if self.keeps_scale(module) else float(rank)

    def size(self) -> int:
        """Bytes that the file has at most."""
        if not self._path.lower().endswith(CHECKPOINTS):
            found = safetensors.size_of(self.layers, self._given) + _MARGIN_OF_LAYER * len(self.layers)
        else:
            found = sum(layer.nbytes + len(layer.name) * 3 + _RECORD for layer in self.layers)
        return found + _MARGIN
