"""What an algorithm makes of a module's factors: ΔW, or the weight that comes of the base model's.

ΔW is a multiplication of the factors; the weight is also there for the algorithms that have no ΔW without the
base. Formulas of LyCORIS 4.1 (`functional/*.py`, `modules/ia3.py`, `modules/glora.py`), kohya-ss/sd-scripts
`networks/merge_lora.py` and peft 0.19 (`tuners/*/layer.py`, `tuners/lora/dora.py`). Shapes as in `algorithms`.
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


def decomposed(weight: Array, roles: Mapping[str, Layer], read: Read, strength: float, transposed: bool) -> Array:
    """DoRA: `weight`, base and ΔW together, with each row or column brought to the magnitude that was learnt.

    A magnitude of [1, in, …] is LyCORIS's `wd_on_out=False`; every other counts along the output side, which is
    the last one of PEFT's embeddings and of `fan_in_fan_out`.
    """
    lycoris = "dora_scale" in roles
    magnitude = read("dora_scale" if lycoris else "magnitude")
    if lycoris:
        out = magnitude.shape[0] == weight.shape[0] and (magnitude.shape[0] != 1 or weight.shape[0] == 1)
        axis = 0 if out else 1
    else:
        axis = 1 if transposed else 0
    others = tuple(index for index in range(weight.ndim) if index != axis)
    norm = np.sqrt(np.square(weight.astype(np.float64)).sum(axis=others, keepdims=True)).astype(weight.dtype)
    if lycoris:
        norm += np.finfo(np.float32).eps
    factor = magnitude.reshape(norm.shape) / norm
    result: Array = weight * (strength * (factor - 1) + 1)
    return result


def generalized(base: Array, roles: Mapping[str, Layer], read: Read, scale: float) -> Array:
    """GLoRA: s · (W·a1·a2 + b1·b2)."""
    a1, a2, b1, b2 = (read(role) for role in ("a1", "a2", "b1", "b2"))
    b1 = b1.reshape(b1.shape[0], -1)
    if "bm" in roles:
        core = np.tensordot(read("bm"), b2.reshape(b2.shape[0], -1), axes=(1, 0))
        second = b1 @ np.moveaxis(core, -1, 1).reshape(b1.shape[1], -1)
    else:
        second = b1 @ b2.reshape(b2.shape[0], -1)
    half = np.tensordot(base, a1.reshape(a1.shape[0], -1), axes=(1, 0))
    first = np.moveaxis(np.tensordot(half, a2.reshape(a2.shape[0], -1), axes=(-1, 0)), -1, 1)
    result: Array = scale * (first + second.reshape(base.shape))
    return result


def rotated(base: Array, roles: Mapping[str, Layer], read: Read, strength: float, constraint: float) -> Array:
    """OFT and BOFT: the output side rotated in blocks, by Cayley's transform of a skew-symmetric matrix."""
    blocks = read("oft_blocks")
    skew = blocks - np.swapaxes(blocks, -1, -2)
    limit = constraint * base.shape[0]
    norm = float(np.sqrt(np.square(skew).sum())) + 1e-8
    if 0 < limit < norm:
        skew = skew * (limit / norm)
    eye = np.eye(blocks.shape[-1], dtype=blocks.dtype)
    rotation = (eye + skew) @ np.linalg.inv(eye - skew)
    rotation = strength * (rotation - eye) + eye
    flat = base.reshape(base.shape[0], -1)
    if blocks.ndim == 3:
        parts = flat.reshape(blocks.shape[0], blocks.shape[1], -1)
        result: Array = (np.swapaxes(rotation, -1, -2) @ parts).reshape(base.shape)
    else:
        result = _butterfly(flat, rotation).reshape(base.shape)
    if "rescale" in roles:
        rescale = read("rescale")
        result = result * rescale.reshape(rescale.size, *(1,) * (base.ndim - 1))
    return result


def _butterfly(flat: Array, rotation: Array) -> Array:
    """BOFT's stages: stage i mixes rows that are 2^i · size/2 apart."""
    size = rotation.shape[-1]
    for stage, blocks in enumerate(rotation):
        stride = 2**stage * (size // 2)
        order = np.arange(flat.shape[0]).reshape(-1, 2, stride).swapaxes(1, 2).ravel()
        mixed = (blocks @ flat[order].reshape(-1, size, flat.shape[1])).reshape(flat.shape)
        flat = np.empty_like(mixed)
        flat[order] = mixed
    return flat


def rescaled(base: Array, roles: Mapping[str, Layer], read: Read, strength: float) -> Array:
    """IA3: rows, or columns where it acts on the input, times a vector."""
    if "ia3_l" in roles:
        # PEFT's has the shape of what it multiplies: [out, 1] or [1, in], and is a factor itself.
        vector = read("ia3_l")
        on_input = vector.shape[0] == 1 and base.shape[0] != 1
        change = vector.ravel() - 1
    else:
        change = read("weight").ravel()
        on_input = bool(read("on_input").ravel()[0])
    shape = [1] * base.ndim
    shape[1 if on_input else 0] = change.size
    return base * (1 + strength * change.reshape(shape))
