"""What a result will consist of: layers with their values, and what describes them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from loracore.adapter import Adapter
from loracore.adapter.peft import DIFFUSERS_METADATA
from loracore.errors import UsageError
from loracore.jobs.change import Stored
from loracore.jobs.convert import Convention
from loracore.jobs.results import Fault
from loracore.names import conventions
from loracore.names.conventions import Nameless
from loracore.names.conventions.diffusers import part_of
from loracore.names.families import family_named
from loracore.tensorfile import Layer
from lorakit.jobs.convert.arrangement import arranged
from lorakit.jobs.convert.kronecker import loha_config, lokr_config
from lorakit.jobs.convert.recasting import recast
from lorakit.jobs.convert.tensors import Recast, Tensor
from lorakit.modules.parts import Part, beside, family_of_all, located
from lorakit.output.carried import FLOATS
from lorakit.output.factor_layers import alpha_dtype, stored_dtype
from lorakit.output.peftfolder import Scaled, lora_config, patterns
from lorakit.output.rounding import DTYPES, NAMES


@dataclass(frozen=True)
class Contents:
    """A weight file to be: its layers and where their values come from. `folder` is below that of the result."""

    tensors: Mapping[Layer, Tensor]
    ranks: Sequence[int | None]
    alphas: Sequence[float | None]
    folder: bytes = b""
    config: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: Whether what the first input's header says of layers by name is true of these.
    keeps_names: bool = False

    @property
    def layers(self) -> list[Layer]:
        return list(self.tensors)


def kept(adapter: Adapter, dtype: Stored | None, folder: bytes) -> Contents:
    """All layers of a file under their own names."""
    alphas = {module.layers["alpha"].name for module in adapter.modules if "alpha" in module.layers}
    found: dict[Layer, Tensor] = {}
    for layer in adapter.layers.values():
        tensor = _of_layer(adapter, layer)
        wanted = dtype if layer.dtype in FLOATS else None
        if layer.name in alphas and wanted is not None:
            found[Layer(layer.name, _alpha_dtype(tensor, wanted), layer.shape)] = tensor
        else:
            found[Layer(layer.name, _dtype(tensor, wanted), layer.shape)] = tensor
    modules = adapter.modules
    return Contents(
        found, [module.rank for module in modules], [module.alpha for module in modules],
        folder=folder, config=adapter.config or None, keeps_names=True,
    )  # fmt: skip


def recasted(
    parts: Sequence[Part], to: Convention, *, dtype: Stored | None, fold: bool
) -> tuple[list[Contents], list[Fault]]:
    """All modules under the names of another convention, and what has no name there.

    Raises UsageError and FileError.
    """
    modules = [each for part in parts for each in located(part)]
    family = family_of_all(parts, modules)
    targets, faults = arranged(modules, to, family)
    faults += [fault for part in parts for fault in beside(part)]
    made: dict[str, list[tuple[str, Recast]]] = defaultdict(list)
    for target in targets:
        try:
            stem = conventions.key_of(to, target.component, target.name, family)
            whole = recast(target, to, fold=fold)
            for tensor in whole.tensors:
                conventions.suffix_of(to, tensor.role, target.component)
        except Nameless as error:
            faults.append(Fault(target.name, str(error)))
            continue
        # A file of kohya's holds all components, and so does one of diffusers'.
        made[part_of(target.component, family_named(family)) or ""].append((stem, whole))
    if conventions.naming(to).has("alpha"):
        return [
            _with_alpha(to, [each for found in made.values() for each in found], dtype)
        ] if made else [], faults
    for part, found in made.items():
        made[part] = _one_kind(found, faults)
    made = defaultdict(list, {part: found for part, found in made.items() if found})
    if not made:
        return [], faults
    if to == "diffusers":
        return [_diffusers(made, dtype)], faults
    like = parts[0].adapter.config if len(parts) == 1 else {}
    return [_peft(found, part if len(made) > 1 else "", like, dtype) for part, found in made.items()], faults


def _one_kind(found: list[tuple[str, Recast]], faults: list[Fault]) -> list[tuple[str, Recast]]:
    """PEFT has one algorithm for all modules of a model, and makes all of them DoRA or none."""
    kinds: dict[str, list[tuple[str, Recast]]] = defaultdict(list)
    for each in found:
        kinds["lora" if each[1].algorithm == "locon" else each[1].algorithm].append(each)
    if len(kinds) < 2:
        return found
    most = max(kinds, key=lambda kind: len(kinds[kind]))
    for kind, others in kinds.items():
        if kind != most:
            text = f"it is a {kind}, and PEFT and diffusers have one algorithm for all modules of a model ({most})"
            faults += [Fault(each.name, text) for _, each in others]
    return kinds[most]


def _with_alpha(to: Convention, found: Sequence[tuple[str, Recast]], dtype: Stored | None) -> Contents:
    tensors: dict[Layer, Tensor] = {}
    for stem, each in found:
        own = _layers(to, stem, each, dtype)
        tensors |= own
        if each.alpha is not None:
            tensor = _alpha(each.alpha)
            stored = _alpha_dtype(tensor, NAMES.get(next(iter(own)).dtype, "float32"))
            tensors[Layer(stem + conventions.suffix_of(to, "alpha"), stored, ())] = tensor
    return _contents(tensors, found)


def _diffusers(made: Mapping[str, Sequence[tuple[str, Recast]]], dtype: Stored | None) -> Contents:
    """Diffusers takes the scales from the header, where it writes them itself (`loaders/lora_base.py`)."""
    tensors: dict[Layer, Tensor] = {}
    stated: dict[str, Any] = {}
    for part, found in made.items():
        for stem, each in found:
            tensors |= _layers("diffusers", stem, each, dtype)
        config = patterns(_scaled(each) for _, each in found) | _flags(found)
        stated |= {f"{part}.{key}": value for key, value in config.items()}
    metadata = {"format": "pt", DIFFUSERS_METADATA: json.dumps(stated, sort_keys=True)}
    return _contents(tensors, [each for found in made.values() for each in found], metadata=metadata)


def _peft(
    found: Sequence[tuple[str, Recast]], part: str, like: Mapping[str, Any], dtype: Stored | None
) -> Contents:
    base = str(like.get("base_model_name_or_path") or "")
    tensors: dict[Layer, Tensor] = {}
    for stem, each in found:
        tensors |= _layers("peft", stem, each, dtype)
    modules, names = [each for _, each in found], [_scaled(each).name for _, each in found]
    match modules[0].algorithm:
        case "loha":
            config = loha_config(modules, names, base)
        case "lokr":
            config = lokr_config(modules, names, base)
        case _:
            config = lora_config(map(_scaled, modules), base=base, **_flags(found))
    config |= {key: like[key] for key in ("task_type", "revision") if key in like}
    return _contents(tensors, found, folder=part.encode(), config=config)


def _contents(tensors: Mapping[Layer, Tensor], found: Sequence[tuple[str, Recast]], **more: Any) -> Contents:
    names = [layer.name for layer in tensors]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"two modules would both be {twice!r}; convert them one by one")
    return Contents(tensors, [each.rank for _, each in found], [each.alpha for _, each in found], **more)


def _layers(to: Convention, stem: str, made: Recast, dtype: Stored | None) -> dict[Layer, Tensor]:
    return {
        Layer(
            stem + conventions.suffix_of(to, tensor.role, made.component), _dtype(tensor, dtype), tensor.shape
        ): tensor
        for tensor in made.tensors
    }


def _scaled(made: Recast) -> Scaled:
    rank = made.rank or 1
    name = conventions.bare(made.component, made.name)
    return Scaled(name, rank, float(rank) if made.alpha is None else made.alpha)


def _flags(found: Sequence[tuple[str, Recast]]) -> dict[str, bool]:
    roles = {tensor.role for _, each in found for tensor in each.tensors}
    return {"use_dora": "magnitude" in roles, "lora_bias": "up_bias" in roles}


def _of_layer(adapter: Adapter, layer: Layer) -> Tensor:
    name = layer.name
    return Tensor("", layer.dtype, layer.shape, lambda: adapter.values(name), lambda: adapter.stored(name))


def _dtype(tensor: Tensor, wanted: Stored | None) -> str:
    if wanted is None and tensor.stored is not None:
        return tensor.dtype
    return stored_dtype(tensor.dtype, wanted)


def _alpha(value: float) -> Tensor:
    return Tensor("alpha", "F64", (), lambda: np.array(value, np.float64))


def _alpha_dtype(tensor: Tensor, wanted: Stored) -> str:
    # One of several numbers is none that anybody reads.
    return alpha_dtype(float(tensor.values().item()), DTYPES[wanted]) if prod(tensor.shape) == 1 else "F32"
