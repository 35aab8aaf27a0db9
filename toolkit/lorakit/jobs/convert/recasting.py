"""Modules as another convention has them.

DoRA's magnitude is [out, 1, …] in LyCORIS; in PEFT it is [out], and [1, out, 1, 1] for a convolution (peft
`tuners/lora/dora.py`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from loracore.adapter import Module
from loracore.names.conventions import Nameless, naming
from lorakit.jobs.convert.arrangement import Target
from lorakit.jobs.convert.joining import of_rows
from lorakit.jobs.convert.tensors import BESIDE, FACTORED, Recast, Tensor, Values, alpha_of, kept, only
from lorakit.output.carried import SCALED

#: Algorithms whose tensors are called alike by kohya's LyCORIS and PEFT, and one of them.
_ALIKE = {"loha": "hada_w1_a", "lokr": "lokr_w1"}


def recast(target: Target, convention: str, *, fold: bool) -> Recast:
    """The module that `target` is under `convention`. `fold`: with a scale of 1.

    Raises:
        Nameless: the convention has nothing for what the module is.
        FileError: it cannot be read.
    """
    module = target.whole
    if module is None:
        made = of_rows(target)
    elif module.transposed:
        raise Nameless(
            "it lies transposed (fan_in_fan_out), which PEFT's configuration alone tells; keep its folder"
        )
    elif module.algorithm in FACTORED:
        made = Recast(
            target.component,
            target.name,
            module.algorithm,
            module.rank,
            alpha_of(module),
            _factors(module, convention),
        )
    elif module.algorithm in _ALIKE and naming(convention).has(_ALIKE[module.algorithm]):
        only(module, None if naming(convention).has("dora_scale") else frozenset(module.layers) - {"dora_scale"})
        tensors = tuple(kept(module, role) for role in module.layers if role != "alpha")
        made = Recast(target.component, target.name, module.algorithm, module.rank, alpha_of(module), tensors)
    else:
        raise Nameless(f"{convention} knows no {module.algorithm}")
    made = replace(made, tensors=tuple(_shaped(each, made, convention) for each in made.tensors))
    scale = target.modules[0].scale if made.rank is None or made.alpha is None else made.alpha / made.rank
    # Alpha 0 means the rank to most readers, and without a rank there is no scale.
    needed = fold or scale == 0 or made.rank is None
    return _folded(made, scale) if needed and scale != 1 else made


def _factors(module: Module, convention: str) -> tuple[Tensor, ...]:
    only(module, BESIDE)
    has_mid, bias = naming(convention).has("mid"), "up_bias" if naming(convention).has("diff_b") else "diff_b"
    found = []
    for role in module.layers:
        if role == "alpha" or (role == "mid" and not has_mid):
            continue
        if role == "down" and "mid" in module.layers and not has_mid:
            found.append(_contracted(module))
        elif role == bias:
            found.append(_bias(module, role))
        else:
            found.append(kept(module, role))
    return tuple(found)


def _contracted(module: Module) -> Tensor:
    """Down with the mid factor multiplied into it, which neither PEFT nor diffusers has."""
    mid, down = module.layers["mid"], module.layers["down"]
    shape = (mid.shape[0], down.shape[1], *mid.shape[2:])

    def values() -> Values:
        pair = module.pair()
        assert pair is not None
        return pair[1].reshape(shape)

    return Tensor("down", down.dtype, shape, values)


def _bias(module: Module, role: str) -> Tensor:
    """PEFT's bias is scaled as ΔW is, LyCORIS's is not."""
    layer = module.layers[role]
    factor = module.scale if role == "up_bias" else (1 / module.scale if module.scale else 0.0)
    other = "diff_b" if role == "up_bias" else "up_bias"
    stored = (lambda: module.stored(role)) if factor == 1 else None
    return Tensor(other, layer.dtype, layer.shape, lambda: module.tensor(role) * np.float32(factor), stored)


def _shaped(tensor: Tensor, made: Recast, convention: str) -> Tensor:
    """DoRA's magnitude as the convention has it; all other tensors have one shape everywhere."""
    if tensor.role not in {"dora_scale", "magnitude"} or made.algorithm not in FACTORED:
        return tensor
    as_scale = naming(convention).has("dora_scale")
    if as_scale and tensor.role == "dora_scale" and len(tensor.shape) > 1:
        return tensor
    up = next((each for each in made.tensors if each.role == "up"), None)
    if up is None:
        # An embedding's, which PEFT alone has.
        return tensor
    outputs = up.shape[0]
    if math.prod(tensor.shape) != outputs or (tensor.role == "dora_scale" and tensor.shape[0] != outputs):
        raise Nameless("its DoRA counts along the input (wd_on_out=False), which LyCORIS alone knows")
    if as_scale:
        role, shape = "dora_scale", (outputs, *(1,) * (len(up.shape) - 1))
    else:
        role, shape = "magnitude", (outputs,) if len(up.shape) == 2 else (1, outputs, *up.shape[2:])
    given = tensor.values
    return replace(tensor, role=role, shape=shape, values=lambda: given().reshape(shape))


def _folded(made: Recast, scale: float) -> Recast:
    """With the scale in the factors: a power of two in A, which is exact, and the rest in B."""
    power = 0
    if made.algorithm in FACTORED and scale and math.isfinite(scale):
        power = round(math.log2(abs(scale)) / 2)
    factors = {"down": 2.0**power, "embedding_down": 2.0**power}
    factors |= dict.fromkeys(SCALED, scale / 2.0**power)
    if made.algorithm in FACTORED:
        # PEFT's bias is scaled with ΔW.
        factors["up_bias"] = scale
    tensors = tuple(_times(each, factors.get(each.role, 1.0)) for each in made.tensors)
    return replace(made, alpha=None if made.rank is None else float(made.rank), tensors=tensors)


def _times(tensor: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return tensor
    given = tensor.values
    return replace(tensor, values=lambda: given() * np.float32(factor), stored=None)
