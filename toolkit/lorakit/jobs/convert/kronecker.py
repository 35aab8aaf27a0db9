"""`adapter_config.json` for LoHa and LoKr: PEFT makes the factors anew by its own rules, and then fills them.

Sources: peft `tuners/loha/config.py`, `tuners/lokr/config.py`, and `factorization` and `update_layer` in
`tuners/lokr/layer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from loracore.errors import UsageError
from lorakit.jobs.convert.tensors import Recast
from lorakit.output.peftfolder import Scaled, patterns

_NAMED = 3


class Scheme(NamedTuple):
    """How a LoKr's two factors share a weight: rows (out_l, out_k), columns (in_m, in_n)."""

    rows: tuple[int, int]
    columns: tuple[int, int]


def loha_config(modules: Sequence[Recast], names: Sequence[str], base: str) -> dict[str, Any]:
    """The configuration by which PEFT loads these LoHas."""
    tucker = any(tensor.role == "hada_t1" for module in modules for tensor in module.tensors)
    scaled = [Scaled(name, *_scale(module)) for name, module in zip(names, modules, strict=True)]
    return _common("LOHA", scaled, base) | {"use_effective_conv2d": tucker}


def lokr_config(modules: Sequence[Recast], names: Sequence[str], base: str) -> dict[str, Any]:
    """The configuration by which PEFT loads these LoKrs.

    Raises UsageError where PEFT would make other shapes whatever it is told.
    """
    shapes = [{tensor.role: tensor.shape for tensor in module.tensors} for module in modules]
    both = any("lokr_w1_a" in each for each in shapes)
    ranks = [_rank(module, each) for module, each in zip(modules, shapes, strict=True)]
    schemes = [list(_schemes(each)) for each in shapes]
    lefts = sorted({scheme.rows[0] for found in schemes for scheme in found})
    best: list[str] = list(names)
    for factor in (*lefts, -1):
        strange = [
            name
            for name, each, found, rank in zip(names, shapes, schemes, ranks, strict=True)
            if not any(_fits(each, scheme, rank, factor, both) for scheme in found)
        ]
        if not strange:
            scaled = [
                Scaled(name, rank, module.alpha if module.alpha is not None else float(rank))
                for name, module, rank in zip(names, modules, ranks, strict=True)
            ]
            tucker = any("lokr_t2" in each for each in shapes)
            return _common("LOKR", scaled, base) | {
                "decompose_both": both, "decompose_factor": factor, "use_effective_conv2d": tucker,
            }  # fmt: skip
        best = min(best, strange, key=len)
    raise UsageError(
        f"PEFT would factor {len(best)} of {len(modules)} modules in another way, such as "
        f"{', '.join(best[:_NAMED])}; take --to kohya"
    )


def _common(kind: str, scaled: Sequence[Scaled], base: str) -> dict[str, Any]:
    found = patterns(scaled)
    return {
        "base_model_name_or_path": base or None, "inference_mode": True, "init_weights": True,
        "module_dropout": 0.0, "modules_to_save": None, "peft_type": kind, "rank_dropout": 0.0, "revision": None,
        "task_type": None, "alpha": found.pop("lora_alpha"), **found,
    }  # fmt: skip


def _scale(module: Recast) -> tuple[int, float]:
    rank = module.rank or 1
    return rank, module.alpha if module.alpha is not None else float(rank)


def _rank(module: Recast, shapes: dict[str, tuple[int, ...]]) -> int:
    """PEFT leaves a factor whole where the rank is at least half of its longer side."""
    return module.rank if module.rank is not None else max(shapes["lokr_w2"][:2])


def _schemes(shapes: dict[str, tuple[int, ...]]) -> Iterator[Scheme]:
    """What the factors may mean: a convolution's kernel can be flat in `lokr_w2_b`."""
    first = shapes.get("lokr_w1") or (shapes["lokr_w1_a"][0], shapes["lokr_w1_b"][1])
    if "lokr_w2" in shapes:
        yield Scheme((first[0], shapes["lokr_w2"][0]), (first[1], shapes["lokr_w2"][1]))
    elif "lokr_t2" in shapes:
        yield Scheme((first[0], shapes["lokr_w2_a"][1]), (first[1], shapes["lokr_w2_b"][1]))
    else:
        wide = math.prod(shapes["lokr_w2_b"][1:])
        for kernel in (1, 9):
            if wide % kernel == 0:
                yield Scheme((first[0], shapes["lokr_w2_a"][0]), (first[1], wide // kernel))


def _fits(shapes: dict[str, tuple[int, ...]], scheme: Scheme, rank: int, factor: int, both: bool) -> bool:
    rows, columns = scheme
    if factorization(math.prod(rows), factor) != rows or factorization(math.prod(columns), factor) != columns:
        return False
    first = both and rank < max(rows[0], columns[0]) / 2
    second = rank < max(rows[1], columns[1]) / 2
    return first == ("lokr_w1_a" in shapes) and second == ("lokr_w2_a" in shapes)


def factorization(size: int, factor: int) -> tuple[int, int]:
    """How PEFT and LyCORIS split a side: by `factor` where it divides, else near it, or near the root (-1)."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = size if factor == -1 else factor
    small, large = 1, size
    for candidate in range(2, math.isqrt(size) + 2):
        if size % candidate:
            continue
        if candidate + size // candidate > small + large or candidate > limit:
            break
        small, large = candidate, size // candidate
        if small >= large:
            break
    return min(small, large), max(small, large)
