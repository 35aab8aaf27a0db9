"""The weights that a group of layers becomes, in float32 (float64 where the base is).

What only adds a product of two factors is done a few rows at a time, which stay in the processor's cache; what
needs the whole weight, or has a ΔW of another form, takes it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loracore.adapter import Module
from lorakit.jobs.bake.base import Base, Place
from lorakit.jobs.bake.plan import Change, Group
from lorakit.jobs.bake.targets import Rows

Values = NDArray[Any]
#: Takes rows of a layer: component, name, the first row, values.
Give = Callable[[str, str, int, Values], None]
_Layers = dict[tuple[str, str], Values]
#: Entries of a block of rows.
_BLOCK = 1 << 19


class _Added(NamedTuple):
    """Rows of a product that are added to those of a layer from `start` on."""

    start: int
    outer: Values
    inner: Values
    scale: float
    strength: float


def merge_group(group: Group, base: Base, give: Give) -> None:
    """Give all layers of a group with its changes made, in order.

    Raises FileError, and what `give` does.
    """
    if all(_only_adds(change) for change in group.changes):
        added = _added(group, base)
        for component, name in group.layers:
            place = base.layers[component][name]
            for start, values in _blocks(base, place, added.get((component, name), [])):
                give(component, name, start, values)
        return
    for (component, name), values in _whole(group, base).items():
        give(component, name, 0, values)


def _only_adds(change: Change) -> bool:
    module = change.module
    return module.algorithm in {"lora", "locon"} and not change.bias and "weight" not in module.layers


def _dtype(place: Place) -> type[np.floating[Any]]:
    return np.float64 if place.layer.dtype == "F64" else np.float32


def _added(group: Group, base: Base) -> dict[tuple[str, str], list[_Added]]:
    """What is added to which layer."""
    found: dict[tuple[str, str], list[_Added]] = {}
    for change in group.changes:
        first = change.rows[0]
        pair = change.module.pair(_dtype(base.layers[first.component][first.layer]))
        assert pair is not None
        outer, inner, scale = pair
        start = 0
        for each in change.rows:
            rows = base.layers[each.component][each.layer].layer.shape[0]
            count = (rows if each.stop is None else each.stop) - each.start
            part = _Added(each.start, outer[start : start + count], inner, scale, change.strength)
            found.setdefault((each.component, each.layer), []).append(part)
            start += count
    return found


def _blocks(base: Base, place: Place, added: Sequence[_Added]) -> Iterator[tuple[int, Values]]:
    """A layer, some rows at a time, with all that is added to them."""
    reader, layer = base.files[place.file].reader, place.layer
    rows, width = layer.shape[0], int(np.prod(layer.shape[1:], dtype=np.int64))
    height = max(1, min(rows, _BLOCK // max(1, width)))
    product = np.empty((height, width), _dtype(place))
    for start in range(0, rows, height):
        stop = min(rows, start + height)
        values = reader.read_rows(layer.name, start, stop, product.dtype)
        flat = values.reshape(stop - start, width)
        for each in added:
            first, last = max(start, each.start), min(stop, each.start + len(each.outer))
            if first < last:
                out = product[: last - first]
                with np.errstate(all="ignore"):
                    np.matmul(each.outer[first - each.start : last - each.start], each.inner, out=out)
                    for factor in (each.scale, each.strength):
                        if factor != 1:
                            out *= factor
                    flat[first - start : last - start] += out
        yield start, values


def _whole(group: Group, base: Base) -> _Layers:
    values: _Layers = {}
    for component, name in group.layers:
        place = base.layers[component][name]
        values[component, name] = base.files[place.file].reader.read(name, _dtype(place))
    for change in group.changes:
        whole = _taken(change.rows, values)
        if change.module.algorithm in {"lora", "dora"} and "weight" in change.module.layers:
            # PEFT saves an embedding with its factors, and adds these to what it saved.
            saved = change.module.tensor("weight", whole.dtype).reshape(whole.shape)
            whole = whole + change.strength * (saved - whole)
        _put(change.rows, values, change.module.applied(whole, change.strength).reshape(whole.shape))
        if change.bias:
            bias = _taken(change.bias, values)
            _put(change.bias, values, _biased(change, bias))
    return values


def _biased(change: Change, bias: Values) -> Values:
    module: Module = change.module
    delta = module.bias_delta(bias.dtype)
    if delta is not None:
        bias = bias + change.strength * delta.reshape(bias.shape)
    if "bias" in module.layers:
        # PEFT saves the biases that were trained with the factors whole.
        bias = bias + change.strength * (module.tensor("bias", bias.dtype).reshape(bias.shape) - bias)
    return bias


def _taken(rows: Sequence[Rows], values: _Layers) -> Values:
    parts = [values[each.component, each.layer][each.start : each.stop] for each in rows]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _put(rows: Sequence[Rows], values: _Layers, result: Values) -> None:
    start = 0
    for each in rows:
        target = values[each.component, each.layer][each.start : each.stop]
        target[...] = result[start : start + len(target)]
        start += len(target)
