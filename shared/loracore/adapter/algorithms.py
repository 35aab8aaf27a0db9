"""Which algorithm a module's roles make, and what its shapes promise; how ΔW comes of them is in `formulas`.

As LyCORIS 4.1 (`functional/*.py`), kohya-ss/sd-scripts `networks/merge_lora.py` and peft 0.19
`tuners/*/layer.py` have it. Shapes: down [r, in, kh, kw], up [out, r, 1, 1], ΔW [out, in, kh, kw].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import NamedTuple

from loracore.tensorfile import Layer

Shape = tuple[int, ...]


class Form(NamedTuple):
    """What the header alone tells of a module."""

    algorithm: str
    rank: int | None
    shape: Shape
    #: ΔW cannot be told without the base weight.
    needs_base: bool = False


class Misfit(Exception):
    """The roles or shapes make no module; its text says why."""


#: What PEFT calls the rotations that LyCORIS keeps as `oft_blocks`.
_ROTATIONS = frozenset({"oft_R", "boft_R", "boft_s"})


def form_of(roles: Mapping[str, Layer], transposed: bool = False) -> Form:
    """The algorithm that these roles make. `transposed` is PEFT's `fan_in_fan_out`. Raises Misfit."""
    for needed, form in _FORMS:
        if any(role in roles for role in needed):
            found = form({role: layer.shape for role, layer in roles.items()})
            break
    else:
        if _ROTATIONS & roles.keys():
            raise Misfit("PEFT's own form of OFT and BOFT is not read; merge it with PEFT first")
        raise Misfit(f"only {', '.join(sorted(roles))}, which makes no adapter")
    if found.rank == 0 or 0 in found.shape:
        raise Misfit("rank 0" if found.rank == 0 else "a dimension of 0")
    if transposed and len(found.shape) == 2 and found.algorithm in {"lora", "dora"}:
        found = found._replace(shape=found.shape[::-1])
    return found


def _expect(condition: bool, text: str) -> None:
    if not condition:
        raise Misfit(text)


def _take(shapes: Mapping[str, Shape], *roles: str) -> list[Shape]:
    missing = [role for role in roles if role not in shapes]
    _expect(not missing, f"{', '.join(missing)} is missing")
    for role in roles:
        if len(shapes[role]) < 2:
            raise Misfit(f"{role} has shape {list(shapes[role])}, which is no matrix")
    return [shapes[role] for role in roles]


def _lora(shapes: Mapping[str, Shape]) -> Form:
    up, down = _take(shapes, "up", "down")
    rank = down[0]
    if prod(up[1:]) != rank:
        raise Misfit(f"down {list(down)} and up {list(up)} do not fit: ranks {rank} and {prod(up[1:])}")
    if "singular" in shapes:
        raise Misfit("AdaLoRA's scale depends on what its file does not keep; merge it with PEFT first")
    kernel = down[2:]
    if "mid" in shapes:
        (mid,) = _take(shapes, "mid")
        _expect(mid[:2] == (rank, rank), f"mid {list(mid)} does not fit rank {rank}")
        _expect(prod(kernel) == 1, f"down {list(down)} has a kernel beside that of mid")
        kernel = mid[2:]
    dora = "dora_scale" in shapes or "magnitude" in shapes
    locon = "mid" in shapes or prod(kernel) > 1
    shape = (up[0], down[1], *kernel)
    return Form("dora" if dora else "locon" if locon else "lora", rank, shape, dora)


def _embedding(shapes: Mapping[str, Shape]) -> Form:
    up, down = _take(shapes, "embedding_up", "embedding_down")
    _expect(up[1] == down[0], f"embedding factors {list(down)} and {list(up)} do not fit")
    dora = "magnitude" in shapes
    return Form("dora" if dora else "lora", down[0], (down[1], up[0]), dora)


def _loha(shapes: Mapping[str, Shape]) -> Form:
    a1, b1, a2, b2 = _take(shapes, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    rank, dora = b1[0], "dora_scale" in shapes
    if "hada_t1" in shapes or "hada_t2" in shapes:
        t1, t2 = _take(shapes, "hada_t1", "hada_t2")
        first = (a1[1], b1[1], *t1[2:])
        fit = t1[:2] == (a1[0], b1[0]) and t2[:2] == (a2[0], b2[0]) and first == (a2[1], b2[1], *t2[2:])
        _expect(fit, "the Tucker factors do not fit")
        return Form("loha", rank, first, dora)
    first, second = (a1[0], *b1[1:]), (a2[0], *b2[1:])
    fit = a1[1:] == b1[:1] and a2[1:] == b2[:1] and first == second
    _expect(fit, f"factors {list(a1)}, {list(b1)}, {list(a2)}, {list(b2)} do not fit")
    return Form("loha", rank, first, dora)


def _lokr(shapes: Mapping[str, Shape]) -> Form:
    first, rank1 = _kronecker_part(shapes, "lokr_w1", "")
    second, rank2 = _kronecker_part(shapes, "lokr_w2", "lokr_t2")
    _expect(len(first) <= len(second), "lokr_w1 has more dimensions than lokr_w2")
    first += (1,) * (len(second) - len(first))
    shape = tuple(one * two for one, two in zip(first, second, strict=True))
    return Form("lokr", rank1 if rank2 is None else rank2, shape, "dora_scale" in shapes)


def _kronecker_part(shapes: Mapping[str, Shape], role: str, core: str) -> tuple[Shape, int | None]:
    if role in shapes:
        return _take(shapes, role)[0], None
    a, b = _take(shapes, f"{role}_a", f"{role}_b")
    if core in shapes:
        (t,) = _take(shapes, core)
        _expect(t[:2] == (a[0], b[0]), f"{core} {list(t)} does not fit")
        return (a[1], b[1], *t[2:]), b[0]
    _expect(a[1:] == b[:1], f"{role}_a {list(a)} and {role}_b {list(b)} do not fit")
    return (a[0], *b[1:]), b[0]


def _glora(shapes: Mapping[str, Shape]) -> Form:
    a1, a2, b1, b2 = _take(shapes, "a1", "a2", "b1", "b2")
    rank, kernel = a2[0], b2[2:]
    if "bm" in shapes:
        kernel = _take(shapes, "bm")[0][2:]
    fit = prod(a1[1:]) == a2[0] and prod(b1[1:]) == b2[0] and a1[0] == a2[1] == b2[1]
    _expect(fit, f"factors {list(a1)}, {list(a2)}, {list(b1)}, {list(b2)} do not fit")
    return Form("glora", rank, (b1[0], b2[1], *kernel), True)


def _full(shapes: Mapping[str, Shape]) -> Form:
    if "diff" in shapes:
        return Form("full", None, shapes["diff"])
    if "weight" in shapes:
        return Form("full", None, shapes["weight"], True)
    return Form("full", None, shapes["diff_b"] if "diff_b" in shapes else shapes["bias"], "diff_b" not in shapes)


def _norm(shapes: Mapping[str, Shape]) -> Form:
    return Form("norm", None, shapes["w_norm"] if "w_norm" in shapes else shapes["b_norm"])


def _oft(shapes: Mapping[str, Shape]) -> Form:
    """Rotations of the output side: [blocks, size, size], with one more dimension in front for BOFT."""
    blocks = shapes["oft_blocks"]
    fit = len(blocks) in {3, 4} and blocks[-1] == blocks[-2]
    _expect(fit, f"oft_blocks {list(blocks)} are no square blocks")
    return Form("oft", blocks[-1], (blocks[-3] * blocks[-1],), True)


def _ia3(shapes: Mapping[str, Shape]) -> Form:
    role = "ia3_l" if "ia3_l" in shapes else "weight"
    _expect(role in shapes, f"{role} is missing")
    return Form("ia3", None, (prod(shapes[role]),), True)


#: Roles that tell the algorithm, most telling first.
_FORMS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Shape]], Form]], ...] = (
    (("lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_a", "lokr_w1_b", "lokr_w2_b"), _lokr),
    (("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), _loha),
    (("up", "down"), _lora),
    (("embedding_up", "embedding_down"), _embedding),
    (("a1", "a2", "b1", "b2"), _glora),
    (("oft_blocks",), _oft),
    (("on_input", "ia3_l"), _ia3),
    (("diff", "weight"), _full),
    (("w_norm", "b_norm"), _norm),
    (("diff_b", "bias"), _full),
)


#: Algorithms that have no scale.
UNSCALED = frozenset({"full", "norm", "oft", "ia3"})


def scale_of(algorithm: str, rank: int | None, alpha: float | None) -> float:
    """Alpha / rank, where LyCORIS and kohya take alpha 0 for the rank; 1 where there is no alpha or no rank.

    Differences have no alpha, nor has a LoKr with both parts whole; an OFT's alpha is its constraint.
    """
    if rank is None or not alpha or algorithm in UNSCALED:
        return 1.0
    return alpha / rank
