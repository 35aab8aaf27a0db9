"""The tensors that a module consists of under another convention, each read when it is written.

What can stay as it is stays so to the last bit. In all conventions down is [r, in, kh, kw], and up [out, r, 1, 1].
DoRA's magnitude is [out, 1, …] in LyCORIS; in PEFT it is [out], and [1, out, 1, 1] for a convolution (peft
`tuners/lora/dora.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loracore.adapter import Module
from lorakit.change.conversion.arrangement import Rows, Target
from lorakit.change.keys import Nameless
from lorakit.output.rounding import NAMES

Values = NDArray[Any]
#: Algorithms whose tensors are two factors, and what may stand beside these.
_FACTORED = frozenset({"lora", "locon", "dora"})
_BESIDE = frozenset({"up", "down", "mid", "alpha", "dora_scale", "magnitude", "up_bias", "diff_b"})
_KEPT = frozenset({"loha", "lokr"})
#: Which factor takes the scale of a product of several.
_FOLDED = ("up", "hada_w1_a", "lokr_w1", "lokr_w1_a")


@dataclass(frozen=True)
class Tensor:
    """A tensor of a role. `stored`: its bytes, where they are as they were in `dtype`."""

    role: str
    dtype: str
    shape: tuple[int, ...]
    values: Callable[[], Values]
    stored: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class Recast:
    """A module of the other convention: ΔW is alpha / rank times what the factors give.

    `rank` is None where the algorithm has none; its scale is 1 then.
    """

    component: str
    name: str
    algorithm: str
    rank: int | None
    alpha: float | None
    tensors: tuple[Tensor, ...]


def recast(target: Target, convention: str, *, fold: bool) -> Recast:
    """The module that `target` is under `convention`. `fold`: with a scale of 1.

    Raises:
        Nameless: the convention has nothing for what the module is.
        FileError: it cannot be read.
    """
    module = target.whole
    if module is None:
        made = _of_rows(target)
    elif module.transposed or "embedding_up" in module.layers:
        raise Nameless("it lies transposed (fan_in_fan_out, an embedding), which PEFT alone knows")
    elif module.algorithm in _FACTORED:
        made = Recast(
            target.component,
            target.name,
            module.algorithm,
            module.rank,
            _alpha(module),
            _factors(module, convention),
        )
    elif module.algorithm in _KEPT and convention != "diffusers":
        _only(module, frozenset(module.layers) - {"dora_scale"} if convention == "peft" else None)
        tensors = tuple(_kept(module, role) for role in module.layers if role != "alpha")
        made = Recast(target.component, target.name, module.algorithm, module.rank, _alpha(module), tensors)
    else:
        raise Nameless(f"{convention} knows no {module.algorithm}")
    made = replace(made, tensors=tuple(_shaped(each, made, convention) for each in made.tensors))
    scale = target.modules[0].scale if made.rank is None or made.alpha is None else made.alpha / made.rank
    # Alpha 0 means the rank to most readers, and without a rank there is no scale.
    needed = fold or scale == 0 or made.rank is None
    return _folded(made, scale) if needed and scale != 1 else made


def _alpha(module: Module) -> float | None:
    """The alpha that gives the module's scale: its own where that does."""
    if module.rank is None:
        return None
    if module.alpha and module.alpha / module.rank == module.scale:
        return module.alpha
    return module.scale * module.rank


def _only(module: Module, roles: frozenset[str] | None) -> None:
    strange = sorted(module.layers.keys() - (roles if roles is not None else module.layers.keys()))
    if strange:
        raise Nameless(f"there is no name for its {', '.join(strange)}")


def _kept(module: Module, role: str) -> Tensor:
    layer = module.layers[role]
    return Tensor(role, layer.dtype, layer.shape, lambda: module.tensor(role), lambda: module.stored(role))


def _factors(module: Module, convention: str) -> tuple[Tensor, ...]:
    _only(module, _BESIDE)
    kohya = convention == "kohya"
    found = []
    for role in module.layers:
        if role == "alpha" or (role == "mid" and not kohya):
            continue
        if role == "down" and "mid" in module.layers and not kohya:
            found.append(_contracted(module))
        elif role == ("up_bias" if kohya else "diff_b"):
            found.append(_bias(module, role))
        else:
            found.append(_kept(module, role))
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
    if tensor.role not in {"dora_scale", "magnitude"} or made.algorithm not in _FACTORED:
        return tensor
    up = next(each for each in made.tensors if each.role == "up")
    outputs = up.shape[0]
    if math.prod(tensor.shape) != outputs or (tensor.role == "dora_scale" and tensor.shape[0] != outputs):
        raise Nameless("its DoRA counts along the input (wd_on_out=False), which LyCORIS alone knows")
    if convention == "kohya":
        role, shape = "dora_scale", (outputs, *(1,) * (len(up.shape) - 1))
    else:
        role, shape = "magnitude", (outputs,) if len(up.shape) == 2 else (1, outputs, *up.shape[2:])
    given = tensor.values
    return replace(tensor, role=role, shape=shape, values=lambda: given().reshape(shape))


def _folded(made: Recast, scale: float) -> Recast:
    """With the scale in the factors: a power of two in A, which is exact, and the rest in B."""
    power = 0
    if made.algorithm in _FACTORED and scale and math.isfinite(scale):
        power = round(math.log2(abs(scale)) / 2)
    factors = {"down": 2.0**power}
    factors |= dict.fromkeys(_FOLDED, scale / 2.0**power)
    if made.algorithm in _FACTORED:
        # PEFT's bias is scaled with ΔW.
        factors["up_bias"] = scale
    tensors = tuple(_times(each, factors.get(each.role, 1.0)) for each in made.tensors)
    return replace(made, alpha=None if made.rank is None else float(made.rank), tensors=tensors)


def _times(tensor: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return tensor
    given = tensor.values
    return replace(tensor, values=lambda: given() * np.float32(factor), stored=None)


# Modules that are cut or joined


def _of_rows(target: Target) -> Recast:
    modules = target.modules
    _same_kind(modules)
    if len(modules) == 1 and all(each.module is not None for each in target.rows):
        return _gathered(target, modules[0])
    magnitudes = _magnitudes(target.rows) if modules[0].algorithm == "dora" else ()
    if _share_down(modules):
        return _stacked(target, modules[0], magnitudes)
    return _in_blocks(target, modules, magnitudes)


def _same_kind(modules: Sequence[Module]) -> None:
    if len({module.algorithm for module in modules}) > 1:
        raise Nameless("some of its parts are DoRA and others are not")
    for module in modules:
        _only(module, _BESIDE - {"mid", "up_bias", "diff_b"})


def _gathered(target: Target, module: Module) -> Recast:
    """Rows of one module, with its A; or with a part of it, where only some of B's columns reach these rows."""
    rows = target.rows
    columns = _own_columns(rows[0], module) if len(rows) == 1 else slice(None)
    rank = module.rank or 1
    kept = len(range(*columns.indices(rank)))
    down, up = module.layers["down"], module.layers["up"]

    def lower() -> Values:
        return module.tensor("down")[columns]

    def upper() -> Values:
        whole = module.tensor("up")
        return np.concatenate([whole[each.start : each.stop] for each in rows])[:, columns]

    outputs = sum(each.stop - each.start for each in rows)
    same = kept == rank
    tensors = (
        Tensor(
            "down", down.dtype, (kept, *down.shape[1:]), lower, (lambda: module.stored("down")) if same else None
        ),
        Tensor("up", up.dtype, (outputs, kept), upper),
        *(_magnitudes(rows) if module.algorithm == "dora" else ()),
    )
    alpha = _alpha(module)
    assert alpha is not None
    scaled = alpha if same else module.scale * kept
    return Recast(target.component, target.name, module.algorithm, kept, scaled, tensors)


def _own_columns(rows: Rows, module: Module) -> slice:
    """B's columns that reach these rows, where B consists of blocks as `_in_blocks` makes them."""
    everything = slice(None)
    up = module.tensor("up")
    rank, outputs = up.shape[1], up.shape[0]
    inside = up[rows.start : rows.stop]
    reached = np.flatnonzero(inside.any(axis=0))
    if not reached.size:
        return everything
    first, last = int(reached[0]), int(reached[-1]) + 1
    alone = not up[: rows.start, first:last].any() and not up[rows.stop : outputs, first:last].any()
    width = last - first
    # A block is one of several that are as wide, so that cutting gives back what was joined.
    return (
        slice(first, last) if alone and width < rank and rank % width == 0 and first % width == 0 else everything
    )


def _share_down(modules: Sequence[Module]) -> bool:
    first = modules[0]
    alike = all(
        module.scale == first.scale and module.layers["down"].shape == first.layers["down"].shape
        and module.layers["down"].dtype == first.layers["down"].dtype
        for module in modules
    )  # fmt: skip
    return alike and len({module.stored("down") for module in modules}) == 1


def _stacked(target: Target, first: Module, magnitudes: tuple[Tensor, ...]) -> Recast:
    """Several modules with one A: their Bs below one another."""

    def upper() -> Values:
        rank = first.rank or 1
        return np.concatenate([_part(each, rank) for each in target.rows])

    outputs = sum(each.stop - each.start for each in target.rows)
    tensors = (
        _kept(first, "down"),
        Tensor("up", first.layers["up"].dtype, (outputs, first.rank or 1), upper),
        *magnitudes,
    )
    return Recast(target.component, target.name, first.algorithm, first.rank, _alpha(first), tensors)


def _part(rows: Rows, rank: int) -> Values:
    if rows.module is None:
        return np.zeros((rows.stop - rows.start, rank), np.float32)
    return rows.module.tensor("up")[rows.start : rows.stop]


def _in_blocks(target: Target, modules: Sequence[Module], magnitudes: tuple[Tensor, ...]) -> Recast:
    """Several modules: their As below one another, their Bs as blocks on a diagonal."""
    ranks = [module.rank or 1 for module in modules]
    rank, first = sum(ranks), modules[0]
    # One scale for all of it; a module with another has the difference in its B.
    scale = next((module.scale for module in modules if module.scale), 1.0)
    places = dict(zip(modules, np.cumsum([0, *ranks[:-1]]).tolist(), strict=True))

    def lower() -> Values:
        return np.concatenate([module.tensor("down") for module in modules])

    def upper() -> Values:
        whole = np.zeros((sum(each.stop - each.start for each in target.rows), rank), np.float32)
        top = 0
        for each in target.rows:
            height = each.stop - each.start
            if each.module is not None:
                place, width = places[each.module], each.module.rank or 1
                block = _part(each, width) * np.float32(each.module.scale / scale)
                whole[top : top + height, place : place + width] = block
            top += height
        return whole

    outputs = sum(each.stop - each.start for each in target.rows)
    tensors = (
        Tensor("down", _widest(modules, "down"), (rank, *first.layers["down"].shape[1:]), lower),
        Tensor("up", _widest(modules, "up"), (outputs, rank), upper),
        *magnitudes,
    )
    return Recast(target.component, target.name, first.algorithm, rank, scale * rank, tensors)


def _magnitudes(rows: Sequence[Rows]) -> tuple[Tensor, ...]:
    modules = [each.module for each in rows if each.module is not None]
    role = "dora_scale" if "dora_scale" in modules[0].layers else "magnitude"
    if any(role not in module.layers for module in modules):
        raise Nameless("its parts state their DoRA in different ways")
    for module in modules:
        if role == "dora_scale" and module.layers[role].shape[0] != module.shape[0]:
            raise Nameless("its DoRA counts along the input (wd_on_out=False), which cannot be cut by rows")

    def values() -> Values:
        return np.concatenate(
            [each.module.tensor(role).ravel()[each.start : each.stop] for each in rows if each.module is not None]
        )

    shape = (sum(each.stop - each.start for each in rows),)
    return (Tensor(role, _widest(modules, role), shape, values),)


def _widest(modules: Sequence[Module], role: str) -> str:
    """The dtype of all of them, or float32."""
    found = {module.layers[role].dtype for module in modules}
    dtype = found.pop()
    return dtype if not found and dtype in NAMES else "F32"
