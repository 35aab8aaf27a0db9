"""`resize`: a LoRA of other ranks, with ΔW as near to what it was as they allow (SPEC section 8)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import prod
from typing import Any

from loracore.adapter import Module
from loracore.errors import UsageError
from loracore.jobs.change import Changed, Output
from loracore.jobs.job import Context
from loracore.jobs.resize import SPEC, ResizeParameters
from lorakit.jobs.resize.layout import NewLayout
from lorakit.jobs.resize.plan import Plan, plan
from lorakit.lowrank.device import array_module, on_host
from lorakit.lowrank.svd import residual
from lorakit.modules.factors import decomposed, energy, factors
from lorakit.modules.inputs import check_unchanged, checked, counted, described, each
from lorakit.modules.matrices import Opened, opened
from lorakit.output import carried
from lorakit.output.containers import Writer
from lorakit.output.destination import Destination, configured
from lorakit.output.rounding import NAMES
from lorakit.output.stamp import stamp


def run(parameters: ResizeParameters, context: Context) -> Changed:
    """Raises FileError for no adapter and where nothing can be written, UsageError, and MissingPackage."""
    return checked("resize", parameters.writing, lambda: _resize(parameters, context))


JOB = SPEC.implemented(run)


def _resize(parameters: ResizeParameters, context: Context) -> Changed:
    given = parameters.writing
    # Factors are too small to be worth the way to a GPU.
    xp = array_module("cpu" if given.device == "auto" else given.device)
    with opened(parameters.path) as file:
        inputs = (parameters.path, os.fsencode(file.adapter.path))
        destination = Destination(given.path, file.adapter.convention, force=given.force, inputs=inputs)
        found = plan(file, parameters, context)
        result = _Result(file, parameters, found, destination)
        return result.told() if given.check else result.written(context, xp)


class _Result:
    """The file that a plan makes."""

    def __init__(self, file: Opened, parameters: ResizeParameters, found: Plan, destination: Destination) -> None:
        self._file = file
        self._parameters = parameters
        self._plan = found
        self._destination = destination
        self._layout = NewLayout(file, found.ranks, parameters)
        self._input = described(parameters.path, file.adapter, hashed=not parameters.writing.check)
        self._metadata = stamp(
            "resize",
            (self._input,),
            output=parameters.writing.path,
            ranks=self._layout.left.values(),
            alphas=self._layout.alphas,
            parameters=_asked(parameters),
            carried=carried.metadata(file.adapter),
        )

    def told(self) -> Changed:
        """What would be written."""
        size = self._destination.size(self._layout.layers, self._metadata)
        return self._changed(size, self._plan.error, written=False)

    def written(self, context: Context, xp: Any) -> Changed:
        """Write it. Raises FileError and UsageError."""
        config = {}
        if self._destination.is_folder:
            _refuse_others(module for module, rank in self._plan.ranks.items() if rank is None)
            pairs = [(module.key, rank) for module, rank in self._layout.left.items() if rank is not None]
            config = configured(self._file.adapter.config, pairs)
        with self._destination.writing(self._layout.layers, self._metadata, config) as writer:
            for one in self._layout.loose:
                one.give(self._file.adapter, writer)
            told = each(self._file, self._file.modules, lambda module: self._make(module, writer, xp), context)
            check_unchanged([self._file.adapter])
            writer.finish()
        lost = sum(one for one, _ in told.values())
        whole = sum(one for _, one in told.values())
        error = (lost / whole) ** 0.5 if whole else 0.0
        return self._changed(self._destination.written_size(), error, written=True)

    def _make(self, module: Module, writer: Writer, xp: Any) -> tuple[float, float]:
        """Write a module's layers; what of ‖ΔW‖² is lost, and all of it."""
        layout = self._layout
        for one in layout.carried.get(module, ()):
            one.give(self._file.adapter, writer)
        rank = self._plan.ranks[module]
        if not rank:
            whole = energy(module)
            return (0.0 if rank is None else whole), whole
        if self._parameters.method == "svd":
            found = decomposed(module, xp)
            outer, inner = map(on_host, found.truncated(rank))
            lost, whole = residual(found.values, rank), residual(found.values, 0)
        else:
            made = factors(module)
            outer, inner = made.resized(rank)
            lost, whole = made.behind(rank).squares, made.squares
            if layout.keeps_scale(module):
                outer = outer / module.scale
        for name, values in layout.places[module].laid(outer, inner, layout.alpha_of(module, rank)).items():
            writer.give(name, values)
        return lost, whole

    def _changed(self, size: int | None, error: float | None, *, written: bool) -> Changed:
        layers, left = self._layout.layers, self._layout.left
        dtypes = {NAMES.get(layer.dtype, layer.dtype) for layer in layers if prod(layer.shape) > 1}
        output = Output(
            path=self._parameters.writing.path,
            container=self._destination.container,
            layers=len(layers),
            modules=len(left),
            ranks=counted(left.values()),
            dtype=", ".join(sorted(dtypes)),
            bytes=size,
        )
        return Changed(
            operation="resize",
            is_valid=True,
            written=written,
            inputs=(self._input,),
            outputs=(output,),
            error=error,
            warnings=(*self._file.warnings, *self._plan.warnings),
            ranks={self._file.label(module): rank for module, rank in left.items() if rank is not None},
        )


def _refuse_others(kept: Iterable[Module]) -> None:
    """Raises UsageError for modules that one configuration cannot tell of together with LoRA."""
    others = [module for module in kept if module.algorithm in {"loha", "lokr", "oft", "ia3"}]
    if others:
        first = others[0]
        raise UsageError(
            f"module {first.name!r} stays {first.algorithm}, which a folder of LoRA cannot hold; "
            "give -o a name such as x.safetensors"
        )


def _asked(parameters: ResizeParameters) -> dict[str, Any]:
    """What was asked for, as far as it makes a difference to the weights."""
    usual = ResizeParameters(b"", parameters.writing)
    names = [name for name in parameters.__struct_fields__ if name not in {"path", "writing"}]
    return {
        name: getattr(parameters, name)
        for name in names
        if name == "method" or getattr(parameters, name) != getattr(usual, name)
    }
