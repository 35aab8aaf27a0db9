"""A module's ΔW as a product of two factors, whatever its algorithm, and its singular value decomposition.

LoRA and LoCon are such a product. A LoHa, (w1_a·w1_b) ⊙ (w2_a·w2_b), is one of the products of all pairs of
columns, of rank r². A LoKr, kron(w1, w2), has the products of both parts' singular values and the Kronecker
products of their vectors. Where such factors would be larger than ΔW itself, ΔW is formed.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from loracore.adapter import Module, NeedsBase
from loracore.errors import MalformedFile
from lorakit.analysis.matrices import finite, flat
from lorakit.analysis.survey import Unfit
from lorakit.change.decomposition import Decomposition
from lorakit.statistics.spectra import Doubles


class Factors(NamedTuple):
    """B (d × r) and A (r × k) in float64: ΔW = B·A, scale included."""

    outer: Doubles
    inner: Doubles

    @property
    def rank(self) -> int:
        return int(self.outer.shape[1])

    @property
    def squares(self) -> float:
        """‖B·A‖²."""
        return float(((self.outer.T @ self.outer) * (self.inner @ self.inner.T)).sum())

    def resized(self, rank: int) -> Factors:
        """The first columns and rows, or all, and more that change nothing.

        Added columns of B are zero, added rows of A drawn as a trainer draws them (uniform, ±1/√k), so that both
        can be trained.
        """
        if rank <= self.rank:
            return Factors(self.outer[:, :rank], self.inner[:rank])
        more, columns = rank - self.rank, self.inner.shape[1]
        drawn = np.random.default_rng(columns).uniform(-1, 1, (more, columns)) / math.sqrt(columns)
        zeros = np.zeros((len(self.outer), more))
        return Factors(np.hstack([self.outer, zeros]), np.vstack([self.inner, drawn]))

    def behind(self, rank: int) -> Factors:
        """What `resized` cuts off."""
        return Factors(self.outer[:, rank:], self.inner[rank:])


class Decomposed(Protocol):
    """Singular values, the largest first, and the best approximation of a rank by factors with √S on both."""

    @property
    def values(self) -> Doubles: ...

    def truncated(self, rank: int) -> tuple[Any, Any]: ...


def has_factors(module: Module) -> bool:
    """Whether ΔW can be told and is a matrix by its algorithm; of DoRA, whether its direction is."""
    return module.algorithm in {"lora", "locon", "dora", "loha", "lokr"}


def greatest_rank(module: Module) -> int:
    """No decomposition of the module has more singular values than this."""
    sides = min(module.shape[0], math.prod(module.shape[1:]))
    own = module.rank if "up" in module.layers or "embedding_up" in module.layers else None
    return sides if own is None else min(sides, own)


def factors(module: Module) -> Factors:
    """ΔW as a product. Raises MalformedFile that names the layer with NaN or Inf, and FileError."""
    pair = module.pair(np.float64)
    if pair is None:
        found = _other(module)
    else:
        outer, inner, scale = pair
        # Both were read for this, so nobody else has them.
        found = Factors(np.multiply(outer, scale, out=outer) if scale != 1 else outer, inner)
    if not (_is_finite(found.outer) and _is_finite(found.inner)):
        raise MalformedFile(_named(module))
    return found


def decomposed(module: Module, xp: Any = np) -> Decomposed:
    """The decomposition of ΔW, by arrays of `xp`. Raises as `factors` does."""
    if module.algorithm == "lokr" and "lokr_w2" in module.layers:
        first, second = _kronecker(module)
        if not (_is_finite(first) and _is_finite(second)):
            raise MalformedFile(_named(module))
        outer, inner = _whole(second)
        return _Kronecker(first * module.scale, Decomposition(xp.asarray(outer), xp.asarray(inner), xp))
    found = factors(module)
    return Decomposition(xp.asarray(found.outer), xp.asarray(found.inner), xp)


def energy(module: Module) -> float:
    """‖ΔW‖²; 0 where it cannot be told without the base weight. Raises MalformedFile for NaN, and FileError."""
    if has_factors(module):
        return factors(module).squares
    try:
        delta = flat(module.delta(np.float64))
        finite(f"module {module.name!r}", delta)
    except NeedsBase:
        return 0.0
    except Unfit as error:
        raise MalformedFile(f"{error}; take a checkpoint from before that") from error
    return float(np.square(delta).sum())


class _Kronecker:
    """Of kron(w1, w2): all products of both parts' singular values."""

    def __init__(self, first: Doubles, second: Decomposition) -> None:
        left, values, right = np.linalg.svd(first, full_matrices=False)
        roots = np.sqrt(values)
        self._left, self._first, self._right = left * roots, values, (right.T * roots).T
        self._second = second

    @cached_property
    def _order(self) -> tuple[Doubles, NDArray[np.intp], NDArray[np.intp]]:
        """Products, the largest first, and which value of either part each is of."""
        products = np.outer(self._first, self._second.values)
        order = np.argsort(-products, axis=None, kind="stable")
        ours, theirs = np.unravel_index(order, products.shape)
        return products.ravel()[order], ours, theirs

    @property
    def values(self) -> Doubles:
        return self._order[0]

    def truncated(self, rank: int) -> tuple[Any, Any]:
        ours, theirs = self._order[1][:rank], self._order[2][:rank]
        outer, inner = self._second.truncated(int(theirs.max()) + 1)
        xp = self._second.module
        left, right = xp.asarray(self._left[:, ours]), xp.asarray(self._right[ours])
        # Column n of the product is kron(left[:, n], outer[:, theirs[n]]).
        up = (left[:, None, :] * outer[:, theirs][None, :, :]).reshape(-1, len(ours))
        down = (right[:, :, None] * inner[theirs][:, None, :]).reshape(len(ours), -1)
        return up, down


def _other(module: Module) -> Factors:
    sides = min(module.shape[0], math.prod(module.shape[1:]))
    if module.algorithm == "loha":
        first, second = _half(module, "1"), _half(module, "2")
        if first.rank * second.rank <= sides:
            outer = first.outer[:, :, None] * second.outer[:, None, :]
            inner = first.inner[:, None, :] * second.inner[None, :, :]
            product = Factors(outer.reshape(len(outer), -1), inner.reshape(-1, inner.shape[2]))
            return Factors(product.outer * module.scale, product.inner)
    try:
        return _whole(module.delta(np.float64))
    except NeedsBase as error:
        raise MalformedFile(error.reason) from error


def _whole(delta: Doubles) -> Factors:
    """A matrix beside the smaller identity."""
    flat = delta.reshape(delta.shape[0], -1)
    rows, columns = flat.shape
    return Factors(np.eye(rows), flat) if rows <= columns else Factors(flat, np.eye(columns))


def _half(module: Module, number: str) -> Factors:
    """w_a·w_b of a LoHa; with LyCORIS's Tucker core: Σ core[i,j,…]·a[i,p]·b[j,q]."""
    a, b = (module.tensor(f"hada_w{number}_{part}", np.float64) for part in "ab")
    if f"hada_t{number}" not in module.layers:
        return Factors(a, b.reshape(len(b), -1))
    core = module.tensor(f"hada_t{number}", np.float64)
    inner = np.moveaxis(np.tensordot(core, b, axes=(1, 0)), -1, 1)
    return Factors(a.T, inner.reshape(len(inner), -1))


def _kronecker(module: Module) -> tuple[Doubles, Doubles]:
    """w1 and w2 of a LoKr whose w2 is whole, as matrices."""
    if "lokr_w1" in module.layers:
        first = module.tensor("lokr_w1", np.float64)
    else:
        first = module.tensor("lokr_w1_a", np.float64) @ module.tensor("lokr_w1_b", np.float64)
    second = module.tensor("lokr_w2", np.float64)
    return first.reshape(len(first), -1), second.reshape(len(second), -1)


def _is_finite(values: Doubles) -> bool:
    # A sum is finite where all are; only then need each be looked at.
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def _named(module: Module) -> str:
    """Which layer of it holds what no ΔW can be computed from."""
    for role, layer in module.layers.items():
        values = module.tensor(role)
        nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        parts = [f"{count:,} {what}" for count, what in ((nan, "NaN"), (infinite, "Inf")) if count]
        if parts:
            return f"layer {layer.name[:200]!r} holds {' and '.join(parts)}; take a checkpoint from before that"
    return f"module {module.name[:200]!r} has a ΔW that overflows; take a checkpoint from before that"
