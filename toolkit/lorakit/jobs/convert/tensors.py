"""A module's tensors under another convention, each read when it is written.

What can stay as it is stays so to the last bit. In all conventions down is [r, in, kh, kw], and up [out, r, 1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from loracore.adapter import Module
from loracore.names.conventions import Nameless

Values = NDArray[Any]
#: Algorithms whose tensors are two factors, and what may stand beside these.
FACTORED = frozenset({"lora", "locon", "dora"})
BESIDE = frozenset({
    "up", "down", "embedding_up", "embedding_down", "mid", "alpha", "dora_scale", "magnitude", "up_bias", "diff_b",
})  # fmt: skip


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


def alpha_of(module: Module) -> float | None:
    """The alpha that gives the module's scale: its own where that does."""
    if module.rank is None:
        return None
    if module.alpha and module.alpha / module.rank == module.scale:
        return module.alpha
    return module.scale * module.rank


def only(module: Module, roles: frozenset[str] | None) -> None:
    """Raises Nameless where the module has other roles than these; None allows all."""
    strange = sorted(module.layers.keys() - (roles if roles is not None else module.layers.keys()))
    if strange:
        raise Nameless(f"there is no name for its {', '.join(strange)}")


def kept(module: Module, role: str) -> Tensor:
    """A tensor that stays what it is, under whatever name."""
    layer = module.layers[role]
    return Tensor(role, layer.dtype, layer.shape, lambda: module.tensor(role), lambda: module.stored(role))
