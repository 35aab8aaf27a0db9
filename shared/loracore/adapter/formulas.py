"""The multiplication that gives ΔW, by algorithm.

Formulas of LyCORIS 4.1 (`functional/*.py`), kohya-ss/sd-scripts `networks/merge_lora.py` and peft 0.19
`tuners/*/layer.py`. Shapes as in `algorithms`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from loracore.adapter.algorithms import Form
from loracore.adapter.values import Array
from loracore.tensorfile import Layer

#: Reads the tensor of a role in the dtype of the computation.
Read = Callable[[str], Array]
Pair = tuple[Array, Array]


def low_rank(roles: Mapping[str, Layer], read: Read, transposed: bool) -> Pair | None:
    """(B, A) with ΔW = s · B·A, flattened behind the first dimension; None where the module has no such form."""
    if "embedding_up" in roles:
        return read("embedding_down").T, read("embedding_up").T
    if "up" not in roles or "down" not in roles:
        return None
    up, down = read("up"), read("down")
    b = up.reshape(up.shape[0], -1)
    if "mid" in roles:
        # Σ mid[m,n,…]·down[n,j] → [m, j, …]
        a = np.moveaxis(np.tensordot(read("mid"), down.reshape(down.shape[0], -1), axes=(1, 0)), -1, 1)
    else:
        a = down
    a = a.reshape(a.shape[0], -1)
    return (a.T, b.T) if transposed else (b, a)


def difference(form: Form, roles: Mapping[str, Layer], read: Read, transposed: bool) -> Array | None:
    """ΔW before the scale, in the form's shape; the direction alone for DoRA; None where it needs the base."""
    pair = low_rank(roles, read, transposed)
    if pair is not None:
        delta: Array = pair[0] @ pair[1]
    elif form.algorithm == "loha":
        delta = _hadamard(roles, read)
    elif form.algorithm == "lokr":
        delta = _kronecker(_kronecker_factor(roles, read, "lokr_w1", ""), _lokr_second(roles, read))
    else:
        role = next((role for role in ("diff", "w_norm", "diff_b", "b_norm") if role in roles), None)
        if role is None or form.needs_base:
            return None
        delta = read(role)
    return delta.reshape(form.shape)


def _tucker(core: Array, a: Array, b: Array) -> Array:
    """Σ core[i,j,…]·a[i,p]·b[j,r] → [p, r, …] (LyCORIS `rebuild_tucker`)."""
    half = np.tensordot(a, core, axes=(0, 0))
    return np.moveaxis(np.tensordot(b, half, axes=(0, 1)), 0, 1)


def _hadamard(roles: Mapping[str, Layer], read: Read) -> Array:
    halves = []
    for n in ("1", "2"):
        a, b = read(f"hada_w{n}_a"), read(f"hada_w{n}_b")
        tucker = f"hada_t{n}" in roles
        halves.append(_tucker(read(f"hada_t{n}"), a, b) if tucker else a @ b.reshape(b.shape[0], -1))
    product: Array = np.multiply(halves[0], halves[1], out=halves[0])
    return product


def _lokr_second(roles: Mapping[str, Layer], read: Read) -> Array:
    return _kronecker_factor(roles, read, "lokr_w2", "lokr_t2")


def _kronecker_factor(roles: Mapping[str, Layer], read: Read, role: str, core: str) -> Array:
    if role in roles:
        return read(role)
    a, b = read(f"{role}_a"), read(f"{role}_b")
    if core in roles:
        return _tucker(read(core), a, b)
    whole: Array = (a @ b.reshape(b.shape[0], -1)).reshape(a.shape[0], *b.shape[1:])
    return whole


def _kronecker(first: Array, second: Array) -> Array:
    """Numpy's `kron` fills missing dimensions in front, LyCORIS behind."""
    whole: Array = np.kron(first.reshape(first.shape + (1,) * (second.ndim - first.ndim)), second)
    return whole
