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
from lorakit.lowrank.svd import Decomposition, Doubles
from lorakit.modules.matrices import finite, flat
from lorakit.modules.survey import LARGEST, Unfit

#: Entries of ΔW that are formed at most; a file of some factors can promise any number.
MAX_FORMED = 1 << 28


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
    most = min(module.shape[0], math.prod(module.shape[1:]))
    match module.algorithm:
        case "loha":
            own = _bound(module, "hada_w1", "hada_t1") * _bound(module, "hada_w2", "hada_t2")
        case "lokr":
            own = _bound(module, "lokr_w1", "lokr_t1") * _bound(module, "lokr_w2", "lokr_t2")
        case _:
            own = module.rank or most
    return min(most, own)


def _bound(module: Module, role: str, core: str) -> int:
    """The greatest rank that a part of a LoHa or LoKr can have, by its shapes."""
    if role in module.layers:
        shape = module.layers[role].shape
        return min(shape[0], math.prod(shape[1:]))
    a, b = (module.layers[f"{role}_{part}"].shape for part in "ab")
    return min(a) if core in module.layers else min(*a, math.prod(b[1:]))


def factors(module: Module) -> Factors:
    """ΔW as a product. Raises MalformedFile that names the layer with NaN or Inf, and FileError."""
    pair = module.pair(np.float64)
    if pair is None:
        found = _other(module)
    else:
        outer, inner, scale = pair
        # Both were read for this, so nobody else has them.
        found = Factors(np.multiply(outer, scale, out=outer) if scale != 1 else outer, inner)
    if not _is_within(found.outer, found.inner):
        raise MalformedFile(_named(module))
    return found


def decomposed(module: Module, xp: Any = np) -> Decomposed:
    """The decomposition of ΔW, by arrays of `xp`. Raises as `factors` does."""
    if module.algorithm == "lokr":
        first, second = _kronecker(module)
        if not _is_within(first * module.scale, *second):
            raise MalformedFile(_named(module))
        inside = Decomposition(xp.asarray(second.outer), xp.asarray(second.inner), xp)
        return _Kronecker(first * module.scale, inside)
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
        theirs = xp.asarray(theirs)
        # Column n of the product is kron(left[:, n], outer[:, theirs[n]]).
        up = (left[:, None, :] * outer[:, theirs][None, :, :]).reshape(-1, len(ours))
        down = (right[:, :, None] * inner[theirs][:, None, :]).reshape(len(ours), -1)
        return up, down


def _other(module: Module) -> Factors:
    """Of an algorithm that is no product itself."""
    sides = min(module.shape[0], math.prod(module.shape[1:]))
    if module.algorithm == "loha":
        one, other = _half(module, "hada_w1", "hada_t1"), _half(module, "hada_w2", "hada_t2")
        if one.rank * other.rank <= sides:
            outer = one.outer[:, :, None] * other.outer[:, None, :]
            inner = one.inner[:, None, :] * other.inner[None, :, :]
            return Factors(outer.reshape(len(outer), -1) * module.scale, inner.reshape(-1, inner.shape[2]))
    if module.algorithm == "lokr":
        first, second = _kronecker(module)
        if first.shape[1] * second.rank <= sides:
            outer = np.kron(first, second.outer).astype(np.float64, copy=False)
            inner = np.kron(np.eye(first.shape[1]), second.inner).astype(np.float64, copy=False)
            return Factors(outer * module.scale, inner)
    if math.prod(module.shape) > MAX_FORMED:
        raise MalformedFile(
            f"module {module.name[:200]!r} has a ΔW of {list(module.shape)}, too large to be formed"
        )
    try:
        return _whole(module.delta(np.float64))
    except NeedsBase as error:
        raise MalformedFile(error.reason) from error


def _whole(delta: Doubles) -> Factors:
    """A matrix beside the smaller identity."""
    flat = delta.reshape(delta.shape[0], -1)
    rows, columns = flat.shape
    return Factors(np.eye(rows), flat) if rows <= columns else Factors(flat, np.eye(columns))


def _half(module: Module, role: str, core: str) -> Factors:
    """a·b of LyCORIS's algorithms; with a Tucker core: Σ core[i,j,…]·a[i,p]·b[j,q]."""
    a, b = (module.tensor(f"{role}_{part}", np.float64) for part in "ab")
    if core not in module.layers:
        return Factors(a, b.reshape(len(b), -1))
    inner = np.moveaxis(np.tensordot(module.tensor(core, np.float64), b, axes=(1, 0)), -1, 1)
    return Factors(a.T, inner.reshape(len(inner), -1))


def _kronecker(module: Module) -> tuple[Doubles, Factors]:
    """w1, and w2 as a product, of a LoKr; kernels lie flat behind w2's columns."""
    if "lokr_w1" in module.layers:
        first = module.tensor("lokr_w1", np.float64)
    else:
        part = _half(module, "lokr_w1", "lokr_t1")
        first = part.outer @ part.inner
    if "lokr_w2" in module.layers:
        return first.reshape(len(first), -1), _whole(module.tensor("lokr_w2", np.float64))
    return first.reshape(len(first), -1), _half(module, "lokr_w2", "lokr_t2")


def _is_within(*parts: Doubles) -> bool:
    """Whether no product of these parts can be larger than `LARGEST`; not where one holds NaN."""
    with np.errstate(all="ignore"):
        norms = [float(np.linalg.norm(part)) for part in parts]
        return all(norm <= LARGEST for norm in (*norms, math.prod(norms)))


def unfinite(module: Module) -> str | None:
    """Which layer holds NaN or Inf, and what to do about it; None where none does. Raises FileError."""
    for role, layer in module.layers.items():
        values = module.tensor(role)
        nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        parts = [f"{count:,} {what}" for count, what in ((nan, "NaN"), (infinite, "Inf")) if count]
        if parts:
            return f"layer {layer.name[:200]!r} holds {' and '.join(parts)}; take a checkpoint from before that"
    return None


def _named(module: Module) -> str:
    """Why no ΔW can be computed of it."""
    large = f"module {module.name[:200]!r} has a ΔW beyond {LARGEST:g}; take a checkpoint from before that"
    return unfinite(module) or large
