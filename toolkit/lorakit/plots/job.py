"""`plot`: a picture of one file, or of several side by side (SPEC section 7)."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from loracore.errors import MissingPackage, UsageError
from loracore.jobs.job import Context
from loracore.jobs.plot import KINDS, SPEC, PlotParameters, PlotResult
from loracore.paths import shown

if TYPE_CHECKING:
    from lorakit.plots.drawing import Drawn

#: Files side by side, beyond which no colours are left.
_MOST = 6


def run(parameters: PlotParameters, context: Context) -> PlotResult:
    """Raises FileError for a file that is no adapter, UsageError, and MissingPackage without matplotlib."""
    _check(parameters)
    try:
        drawing = import_module("lorakit.plots.drawing")
        module = import_module(f"lorakit.plots.{parameters.kind}")
    except ModuleNotFoundError as error:
        raise MissingPackage(f"plot needs {error.name}: pip install 'lorad[toolkit]'", "plot") from error
    with drawing.style():
        drawn: Drawn = module.draw(parameters, context)
        image: bytes = drawing.rendered(drawn.figure, parameters.format)
    return PlotResult(image, parameters.format, drawn.faults, drawn.warnings)


JOB = SPEC.implemented(run)


def _check(parameters: PlotParameters) -> None:
    kind, count = parameters.kind, len(parameters.paths)
    if kind not in KINDS:
        raise UsageError(f"there is no plot {kind!r}; there are {', '.join(KINDS)}")
    if kind == "comparison" and not 2 <= count <= _MOST:
        raise UsageError(f"comparison takes 2 to {_MOST} files, not {count}")
    if kind != "comparison" and count != 1:
        files = ", ".join(shown(os.path.basename(path)) for path in parameters.paths[:_MOST])
        raise UsageError(f"{kind} takes one file, not {count} ({files}); compare several by `comparison`")
    if not 0 < parameters.threshold <= 1:
        raise UsageError(f"threshold {parameters.threshold}: give a share above 0 and up to 1")
