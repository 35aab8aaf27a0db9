"""Modules that are cut by the rows of ΔW, or joined below one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loracore.adapter import Module
from loracore.names.conventions import Nameless
from lorakit.jobs.convert.arrangement import Rows, Target
from lorakit.jobs.convert.tensors import BESIDE, Recast, Tensor, Values, alpha_of, kept, only
from lorakit.output.rounding import NAMES


def of_rows(target: Target) -> Recast:
    """The module that consists of these rows. Raises Nameless and FileError."""
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
        only(module, BESIDE - {"mid", "up_bias", "diff_b"})


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
    alpha = alpha_of(module)
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
        kept(first, "down"),
        Tensor("up", first.layers["up"].dtype, (outputs, first.rank or 1), upper),
        *magnitudes,
    )
    return Recast(target.component, target.name, first.algorithm, first.rank, alpha_of(first), tensors)


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
