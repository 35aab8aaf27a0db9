"""Which layers a module's factors become: their names, shapes and dtypes, and how B and A lie in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loracore.adapter import LayerRef, Module
from loracore.jobs.change import Stored
from loracore.names import unet
from loracore.names.conventions import naming, suffix_of, written
from loracore.names.families import family_named
from lorakit.output.rounding import DTYPES, NAMES

#: Dtypes that are not written, and what takes their place: the narrowest that loses no more than it must.
_INSTEAD = {"F64": "F32", "BF16": "BF16", "F16": "F16", "F32": "F32"}


@dataclass(frozen=True)
class Place:
    """Layers for B and A of one rank. `crossed`: B lies in the layer `down`, and both are transposed.

    `alpha` is None where there is no place for it; then the scale is 1.
    """

    up: LayerRef
    down: LayerRef
    alpha: LayerRef | None
    crossed: bool = False

    @property
    def layers(self) -> tuple[LayerRef, ...]:
        return (self.up, self.down) if self.alpha is None else (self.up, self.down, self.alpha)

    def laid(self, outer: NDArray[Any], inner: NDArray[Any], alpha: float) -> dict[str, NDArray[Any]]:
        """Values by the layers' names."""
        first, second = (inner.T, outer.T) if self.crossed else (outer, inner)
        found = {self.up.name: first.reshape(self.up.shape), self.down.name: second.reshape(self.down.shape)}
        if self.alpha is not None:
            found[self.alpha.name] = np.full(self.alpha.shape, alpha, np.float32)
        return found


def place(module: Module, rank: int, alpha: float, *, dtype: Stored | None, family: str = "") -> Place:
    """Where factors of this rank go in the module's own file, in its own names."""
    layers = module.layers
    kind = stored_dtype(next(iter(factor_dtypes(module))), dtype)
    if "embedding_up" in layers:
        up, down = layers["embedding_up"], layers["embedding_down"]
        return Place(
            LayerRef(up.name, kind, (up.shape[0], rank)), LayerRef(down.name, kind, (rank, down.shape[1])),
            _alpha(module, alpha, dtype, kind), crossed=True,
        )  # fmt: skip
    if "up" not in layers:
        convention, shape = naming_of(module.convention), kernel_shape(module, family)
        return new_place(module.key, convention, module.component, shape, rank=rank, alpha=alpha, dtype=kind)
    up, down = layers["up"], layers["down"]
    kernel = layers["mid"].shape[2:] if "mid" in layers else down.shape[2:]
    return Place(
        LayerRef(up.name, kind, (up.shape[0], rank, *(1,) * (len(up.shape) - 2))),
        LayerRef(down.name, kind, (rank, down.shape[1], *kernel)),
        _alpha(module, alpha, dtype, kind),
        crossed=module.transposed,
    )


def new_place(
    stem: str, convention: str, component: str, shape: tuple[int, ...], *, rank: int, alpha: float, dtype: str
) -> Place:
    """Where factors of ΔW of this shape go under the stem that a convention has for the module."""
    up, down = (stem + suffix_of(convention, role, component) for role in ("up", "down"))
    ones = (1,) * (len(shape) - 2)
    named = naming(convention).has("alpha", component)
    return Place(
        LayerRef(up, dtype, (shape[0], rank, *ones)),
        LayerRef(down, dtype, (rank, *shape[1:])),
        LayerRef(stem + suffix_of(convention, "alpha"), alpha_dtype(alpha, dtype), ()) if named else None,
    )


def naming_of(convention: str) -> str:
    """The convention that names what a file of this one has no names for yet."""
    return convention if convention in written() else "kohya"


def kernel_shape(module: Module, family: str) -> tuple[int, ...]:
    """ΔW's shape as the base weight lies: LoHa and LoKr keep kernels flat, which the module's name tells of."""
    if len(module.shape) != 2 or module.component != "unet":
        return module.shape
    for size, ends in (family_named(family).kernels or unet.KERNELS).items():
        if re.search(rf"(^|\.)({ends})$", module.name) and module.shape[1] % size**2 == 0:
            return (module.shape[0], module.shape[1] // size**2, size, size)
    return module.shape


def factor_dtypes(module: Module) -> Mapping[str, None]:
    """Dtypes of a module's layers but for alpha, in the file's order."""
    return {layer.dtype: None for role, layer in module.layers.items() if role != "alpha"}


def stored_dtype(given: str, wanted: Stored | None) -> str:
    """The dtype that a layer of dtype `given` is written in, where `wanted` is asked for."""
    return DTYPES[wanted] if wanted is not None else _INSTEAD.get(given, "F16")


def alpha_dtype(alpha: float, dtype: str) -> str:
    """As the factors, or float32 where they are too coarse to hold it: bfloat16 has no 257."""
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return "F16" if float(np.float16(alpha)) == alpha else "F32"
    if dtype == "BF16":
        return "BF16" if not np.float32(alpha).view(np.uint32) & 0xFFFF else "F32"
    return "F32"


def _alpha(module: Module, alpha: float, dtype: Stored | None, usual: str) -> LayerRef | None:
    layer = module.layers.get("alpha")
    if layer is None:
        return None
    own = layer.dtype if dtype is None and layer.dtype in NAMES else usual
    return LayerRef(layer.name, alpha_dtype(alpha, own), layer.shape)
