"""A module of a file as matrices: ΔW, and its factors where it has some."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loracore.adapter import Adapter, Module, NeedsBase, read_adapter
from loracore.errors import MalformedFile
from loracore.jobs.results import Fault
from lorakit.modules.survey import LARGEST, Unfit
from lorakit.statistics.matrix import Bounds, Entries, Matrix, Product
from lorakit.statistics.scan import Workspace


@dataclass(frozen=True)
class Opened:
    """An adapter whose modules have labels that are all different, and what is wrong with it."""

    adapter: Adapter
    labels: Mapping[Module, str]
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]

    @property
    def modules(self) -> Sequence[Module]:
        return self.adapter.modules

    def label(self, module: Module) -> str:
        return self.labels[module]


@contextmanager
def opened(path: bytes) -> Iterator[Opened]:
    """An adapter with at least one module. Raises FileError."""
    with read_adapter(os.fsdecode(path)) as adapter:
        if not adapter.modules:
            reason = "; ".join(problem.text for problem in adapter.problems) or "no layers of an adapter"
            raise MalformedFile(f"{reason[:500]}; is it a LoRA?", adapter.path)
        labels: dict[Module, str] = {}
        taken: set[str] = set()
        for module in adapter.modules:
            labels[module] = module.key if module.name in taken else module.name
            taken.add(labels[module])
        faults = [Fault(one.module, one.text) for one in adapter.problems if one.level == "error"]
        warnings = [one.line for one in adapter.problems if one.level != "error"]
        partly = sum(module.needs_base for module in adapter.modules)
        if partly:
            warnings.append(
                f"ΔW of {partly:,} modules depends on the base model's weight (DoRA and the like): "
                "what is told of it is the part that the file holds"
            )
        yield Opened(adapter, labels, tuple(faults), tuple(warnings))


def weight(module: Module) -> float:
    """How long a module takes, about: the entries of its ΔW."""
    return float(math.prod(module.shape))


def matrices(module: Module, bounds: Bounds, workspace: Workspace) -> dict[str, Matrix]:
    """ΔW as "dW", and "A" and "B" where the module has factors. Raises Unfit and FileError."""
    dtype = bounds.dtype
    pair = module.pair(dtype)
    if pair is None:
        try:
            delta = module.delta(dtype)
        except NeedsBase as error:
            raise Unfit(f"{module.algorithm} has no ΔW without the base model's weight") from error
        _check({"ΔW": delta})
        return {"dW": Entries(flat(delta), bounds, workspace)}
    outer, inner, scale = pair
    _check({"A": inner, "B": outer})
    if not abs(scale) <= LARGEST:
        raise Unfit(f"its scale is {scale:g}")
    first, second = Entries(inner, bounds, workspace), Entries(outer, bounds, workspace)
    product = Product(second, first, scale, bounds, workspace)
    if not product.frobenius <= LARGEST:
        raise Unfit(f"‖ΔW‖ is {product.frobenius:.3g}; take a checkpoint from before that")
    return {"dW": product, "A": first, "B": second}


def flat(values: NDArray[Any]) -> NDArray[Any]:
    """As a matrix: what belongs to an output is a row."""
    return values.reshape(values.shape[0] if values.ndim else 1, -1)


def finite(name: str, values: NDArray[np.floating[Any]]) -> None:
    """Raises Unfit that counts NaN and Inf, or tells the largest entry that is too large."""
    # NaN is neither above nor below.
    largest = max(float(values.max()), -float(values.min()), key=_nan_first) if values.size else 0.0
    if largest <= LARGEST:
        return
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    parts = [f"{count:,} {what}" for count, what in ((nan, "NaN"), (infinite, "Inf")) if count]
    raise Unfit(f"{name} holds {' and '.join(parts) or f'{largest:.3g}'}")


def _nan_first(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _check(parts: Mapping[str, NDArray[Any]]) -> None:
    for name, values in parts.items():
        if not values.size:
            raise Unfit(f"{name} has no entries (shape {list(values.shape)}): its rank or a side is 0")
        finite(name, values)
