"""The weights that a group of layers becomes, in float32 (float64 where the base is)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loracore.adapter import Module
from lorakit.change.baking.base import Base
from lorakit.change.baking.places import Rows
from lorakit.change.baking.plan import Change, Group

Values = NDArray[Any]
#: Layers by component and name.
Layers = dict[tuple[str, str], Values]


def merged(group: Group, base: Base) -> Layers:
    """The group's layers with all of its changes made, in order. Raises FileError."""
    values: Layers = {}
    for component, name in group.layers:
        place = base.layers[component][name]
        dtype = np.float64 if place.layer.dtype == "F64" else np.float32
        values[component, name] = base.files[place.file].reader.read(name, dtype)
    for change in group.changes:
        whole = _taken(change.rows, values)
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


def _taken(rows: Sequence[Rows], values: Layers) -> Values:
    parts = [values[each.component, each.layer][each.start : each.stop] for each in rows]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _put(rows: Sequence[Rows], values: Layers, result: Values) -> None:
    start = 0
    for each in rows:
        target = values[each.component, each.layer][each.start : each.stop]
        target[...] = result[start : start + len(target)]
        start += len(target)
