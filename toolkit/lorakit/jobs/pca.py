"""`pca`: principal components of each layer, columns standardised (SPEC section 7)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from loracore.adapter.reading import TensorReader
from loracore.errors import MalformedFile, UsageError
from loracore.jobs.job import Context
from loracore.jobs.pca import SPEC, LayerPca, PcaParameters, PcaResult
from loracore.jobs.results import Array
from loracore.tensorfile import Layer
from loracore.tensorfile.peft import weight_file
from lorakit.lowrank.principal import Components, principal
from lorakit.modules.matrices import finite, flat
from lorakit.modules.survey import Survey, Unfit, survey
from lorakit.statistics.scan import Workspace

R = TypeVar("R")


def run(parameters: PcaParameters, context: Context) -> PcaResult:
    """Raises FileError for a file that cannot be read or has no matrix, and UsageError."""

    def told(found: Components) -> LayerPca:
        return _told(found, parameters.vectors)

    found = analyse(parameters.path, parameters.n_components, context, told)
    return PcaResult(
        path=parameters.path,
        success=bool(found.results),
        pca_results=found.results,
        n_components=parameters.n_components,
        total_layers=len(found.results),
        faults=tuple(found.faults),
    )


JOB = SPEC.implemented(run)


def analyse(path: bytes, count: int, context: Context, told: Callable[[Components], R]) -> Survey[R]:
    """What `told` makes of the components of each layer that is a matrix, or can be seen as one.

    Raises FileError and UsageError, as `run`.
    """
    if count < 1:
        raise UsageError(f"{count} components: give 1 or more")
    name = weight_file(path) if os.path.isdir(path) else path
    reader = TensorReader(name or path, os.fsdecode(path))
    try:
        layers = [layer for layer in reader.layers.values() if len(layer.shape) > 1 and layer.nbytes]
        if not layers:
            raise MalformedFile("no layer of two dimensions or more; is it a LoRA?", os.fsdecode(path))

        def work(layer: Layer, workspace: Workspace) -> R:
            return told(principal(_samples(reader, layer), count))

        return survey(
            layers, name=lambda layer: layer.name, weight=lambda layer: layer.nbytes, work=work, context=context
        )
    finally:
        reader.close()


def _samples(reader: TensorReader, layer: Layer) -> NDArray[Any]:
    values = flat(reader.read(layer.name, np.float64))
    if len(values) < 2:
        raise Unfit("one row has no components")
    finite("it", values)
    return values


def _told(found: Components, vectors: bool) -> LayerPca:
    return LayerPca(
        explained_variance_ratio=tuple(found.explained_variance_ratio.tolist()),
        singular_values=tuple(found.singular_values.tolist()),
        components=_array(found.components) if vectors else None,
        transformed_data=_array(found.transformed) if vectors else None,
        n_components=len(found.singular_values),
        total_variance=found.total_variance,
        cumulative_variance=tuple(np.cumsum(found.explained_variance_ratio).tolist()),
    )


def _array(values: NDArray[np.float64]) -> Array:
    return Array(values.shape, np.ascontiguousarray(values, "<f4").tobytes())
