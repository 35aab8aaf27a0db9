"""`report`: a folder that `compare` or `extract` wrote, as tables and as pictures (SPEC section 8)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from loracore.errors import MissingPackage
from loracore.jobs.frame import Context, Job
from loracore.jobs.plot import Format
from loracore.jobs.report import Picture, ReportParameters, ReportResult
from lorakit.change.reporting import reading, summary
from lorakit.change.reporting.reading import Folder


def run(parameters: ReportParameters, context: Context) -> ReportResult:
    """Raises FileError for a folder without a comparison, and MissingPackage without matplotlib for pictures."""
    folder = reading.read(parameters.path)
    pictures: tuple[Picture, ...] = ()
    if parameters.format is not None:
        pictures = _drawn(folder, parameters.path, parameters.format, parameters.overview, context)
    return ReportResult(
        path=parameters.path,
        base=folder.architecture.base.path or folder.extracted.base_model,
        finetuned=folder.architecture.finetuned.path or folder.extracted.finetuned_model,
        totals=summary.totals(folder),
        layers=summary.layers(folder),
        kinds=summary.kinds(folder),
        blocks=summary.blocks(folder),
        lora=summary.lora(folder),
        factors=summary.factors(folder),
        pictures=pictures,
        warnings=tuple(f"{name} is not there, so what it tells is left out" for name in _expected(folder)),
    )


JOB = Job("report", ReportParameters, ReportResult, run)


def _drawn(folder: Folder, path: bytes, form: Format, overview: bool, context: Context) -> tuple[Picture, ...]:
    try:
        drawing: Any = import_module("lorakit.plots.drawing")
        figures: Any = import_module("lorakit.change.reporting.figures")
    except ModuleNotFoundError as error:
        raise MissingPackage(f"report -o needs {error.name}: pip install 'lorad[toolkit]'", "report") from error
    with drawing.style():
        drawn = figures.overview(folder, path) if overview else figures.separate(folder, path)
        found: list[Picture] = []
        for name, figure in drawn.items():
            context.progress(len(found), len(drawn), name)
            found.append(Picture(name, drawing.rendered(figure, form)))
    return tuple(found)


def _expected(folder: Folder) -> list[str]:
    """Files that a whole comparison has; those of an extraction are there where one was asked for."""
    compared = "weight_differences.json" not in folder.missing
    return [name for name in folder.missing if compared and name == "architecture_comparison.json"]
