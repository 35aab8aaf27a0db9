"""Layers that a change takes over from its input: as they are, in another dtype, or with a scale folded in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from loracore.adapter import Adapter, LayerRef, Module
from loracore.adapter.algorithms import UNSCALED
from loracore.adapter.peft import DIFFUSERS_METADATA
from loracore.jobs.change import Stored
from lorakit.output.containers import Writer
from lorakit.output.factor_layers import alpha_dtype, stored_dtype
from lorakit.output.rounding import DTYPES

#: Roles that a module's ΔW is made of; alpha goes with them.
FACTORS = frozenset({
    "up", "down", "mid", "embedding_up", "embedding_down", "alpha",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2",
})  # fmt: skip
#: The role of each algorithm that takes a scale; the first that a module has.
SCALED = ("up", "embedding_up", "hada_w1_a", "lokr_w1", "lokr_w1_a")
#: kohya's arguments of a network; these are ranks and alphas of its convolutions.
_ARGUMENTS, _RANKS = "ss_network_args", frozenset({"conv_dim", "conv_alpha"})
#: All dtypes whose values another dtype may hold.
FLOATS = frozenset({"F64", *DTYPES.values(), "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})


class Carried(NamedTuple):
    """A layer of the input, what it becomes, and what its values are multiplied by."""

    given: LayerRef
    made: LayerRef
    factor: float = 1.0

    def give(self, adapter: Adapter, writer: Writer) -> None:
        """Read it and write it. Raises FileError, and UsageError where it does not fit its dtype."""
        if self.factor == 1 and self.given.dtype == self.made.dtype:
            writer.give_bytes(self.made.name, adapter.stored(self.given.name))
        else:
            writer.give(self.made.name, adapter.values(self.given.name) * self.factor)


def kept(module: Module, dtype: Stored | None) -> Iterator[Carried]:
    """All layers of a module that is not changed. A scale that only a configuration states is folded in."""
    scaled = _stated_elsewhere(module)
    role = next((role for role in SCALED if role in module.layers), "")
    for each, layer in module.layers.items():
        factor = module.scale if scaled and each in {role, "up_bias"} else 1.0
        if each == "alpha" and dtype is not None and module.alpha is not None:
            yield Carried(layer, replace(layer, dtype=alpha_dtype(module.alpha, DTYPES[dtype])))
        else:
            yield carried(layer, dtype, factor)


def beside(module: Module, dtype: Stored | None, factor: float) -> Iterator[Carried]:
    """Layers of a module that are none of its factors; what its scale applied to is multiplied by `factor`."""
    for role, layer in module.layers.items():
        if role not in FACTORS:
            yield carried(layer, dtype, factor if role == "up_bias" else 1.0)


def loose(adapter: Adapter, dtype: Stored | None) -> Iterator[Carried]:
    """Layers that belong to no module that could be read."""
    owned = {layer.name for module in adapter.modules for layer in module.layers.values()}
    for name, layer in adapter.layers.items():
        if name not in owned:
            yield carried(layer, dtype)


def carried(layer: LayerRef, dtype: Stored | None, factor: float = 1.0) -> Carried:
    """A layer in the dtype that is asked for; numbers that are no floats stay what they are."""
    convert = layer.dtype in FLOATS and (dtype is not None or factor != 1)
    return Carried(layer, replace(layer, dtype=stored_dtype(layer.dtype, dtype)) if convert else layer, factor)


def metadata(adapter: Adapter) -> Mapping[str, str]:
    """What the input says of itself, without scales and ranks that are no longer true."""
    kept = {key: value for key, value in adapter.metadata.items() if key != DIFFUSERS_METADATA}
    try:
        arguments = json.loads(kept.get(_ARGUMENTS, ""))
    except (ValueError, RecursionError):
        return kept
    if isinstance(arguments, dict) and not _RANKS.isdisjoint(arguments):
        kept[_ARGUMENTS] = json.dumps({key: value for key, value in arguments.items() if key not in _RANKS})
    return kept


def _stated_elsewhere(module: Module) -> bool:
    """Whether the scale is told by a configuration, which a file alone does not have."""
    return "alpha" not in module.layers and module.scale != 1 and module.algorithm not in UNSCALED
