"""`report`: a folder that `compare` or `extract` wrote, as tables and as pictures (SPEC section 8)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from typing import Any

from loracore.errors import MissingPackage
from loracore.jobs.job import Context
from loracore.jobs.plot import Format
from loracore.jobs.report import SPEC, Picture, ReportParameters, ReportResult
from loracore.jobs.results import Cell, Table, from_rows
from lorakit.difference.pairs import kind_of
from lorakit.jobs.report import reading
from lorakit.jobs.report.reading import Folder, Layer


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
        totals=totals(folder),
        layers=layers(folder),
        kinds=kinds(folder),
        blocks=blocks(folder),
        lora=lora(folder),
        factors=factors(folder),
        pictures=pictures,
        warnings=tuple(f"{name} is not there, so what it tells is left out" for name in _expected(folder)),
    )


JOB = SPEC.implemented(run)


def _drawn(folder: Folder, path: bytes, form: Format, overview: bool, context: Context) -> tuple[Picture, ...]:
    try:
        drawing: Any = import_module("lorakit.plots.drawing")
        figures: Any = import_module("lorakit.jobs.report.figures")
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


#: What ends the part of a name that says which block a layer is in.
_BLOCK = re.compile(r"(.*?(?:layers|blocks|block|layer|h|resnets|attentions)\.\d+)(?:\.|$)")


def totals(folder: Folder) -> dict[str, str | int | float]:
    """What there is to say of the whole."""
    found: dict[str, str | int | float] = {}
    if folder.differences.all_differences:
        performance = folder.differences.performance
        found |= {
            "layers compared": len(folder.differences.all_differences),
            "layers modified": len(folder.differences.modified_layers),
            "not compared": len(folder.architecture.not_compared),
            "only in the base": len(folder.architecture.only_in_base),
            "only in the fine-tuned model": len(folder.architecture.only_in_finetuned),
            "seconds": performance.total_time,
            "seconds of the slowest layer": performance.max_layer_time,
        }
    if folder.analysis.layers:
        found |= {
            "looks like a LoRA": "yes" if folder.analysis.looks_like_lora else "no",
            "suggested rank": folder.analysis.suggested_rank,
            "target modules": ", ".join(folder.analysis.target_modules) or "none",
            "differ by rounding alone": len(folder.analysis.only_rounding),
            "changes that a LoRA does not hold": len(folder.analysis.other_changes),
        }
    if folder.extracted.rank:
        found |= {
            "extracted rank": folder.extracted.rank,
            "extracted modules": len(folder.extracted.layers),
            "error of the extraction": folder.extracted.error,
            "changed, not extracted": len(folder.extracted.not_extracted),
        }
    return found


def layers(folder: Folder) -> Table:
    """All that were compared, the most modified first."""
    ranked = {name: place for place, name in enumerate(folder.differences.modified_layers)}
    names = sorted(folder.differences.all_differences, key=lambda name: ranked.get(name, len(ranked)))
    rows: list[dict[str, Cell]] = []
    for name in names:
        one = folder.differences.all_differences[name]
        rows.append({
            "layer": name, "kind": kind_of(name, one.shape), "shape": "x".join(map(str, one.shape)),
            "mean_abs_diff": one.mean_abs_diff, "max_abs_diff": one.max_abs_diff,
            "relative_diff": one.relative_diff, "changed_ratio": one.changed_ratio,
        })  # fmt: skip
    return from_rows(rows)


def kinds(folder: Folder) -> Table:
    return _grouped(folder, "kind", kind_of)


def blocks(folder: Folder) -> Table:
    return _grouped(folder, "block", lambda name, _: block_of(name))


def block_of(name: str) -> str:
    """The block a layer is in: `model.layers.3`, `unet.down_blocks.1`, or its first names."""
    match = _BLOCK.match(name)
    return match[1] if match else name.rpartition(".")[0] or name


def lora(folder: Folder) -> Table:
    """A row for each matrix that changed, by its norm."""
    rows: list[dict[str, Cell]] = []
    for name, one in sorted(folder.analysis.layers.items(), key=lambda item: -item[1].frobenius_norm):
        verdict = "rounding" if one.only_rounding else "LoRA" if one.looks_like_lora else "full"
        rows.append({
            "layer": name, "frobenius_norm": one.frobenius_norm, "effective_rank": one.effective_rank,
            "signal_rank": one.signal_rank, "looks_like": verdict, "suggested_rank": one.suggested_rank,
            **{f"energy_{rank}": energy for rank, energy in one.energies.items()},
        })  # fmt: skip
    return from_rows(rows)


def factors(folder: Folder) -> Table:
    """A row for each module of the extraction, the worst first."""
    rows: list[dict[str, Cell]] = [
        {
            "layer": name, "rank": one.rank, "error": one.error, "energy_captured": one.energy_captured,
            "frobenius_norm": one.frobenius_norm,
        }
        for name, one in sorted(folder.extracted.layers.items(), key=lambda item: -item[1].error)
    ]  # fmt: skip
    return from_rows(rows)


def _grouped(folder: Folder, title: str, group: Callable[[str, tuple[int, ...]], str]) -> Table:
    members: dict[str, list[Layer]] = defaultdict(list)
    for name, one in folder.differences.all_differences.items():
        members[group(name, one.shape)].append(one)
    rows: list[dict[str, Cell]] = []
    for name, of in members.items():
        relative = [one.relative_diff or 0.0 for one in of]
        rows.append({
            title: name, "layers": len(of), "modified": sum(one.changed_ratio > 0 for one in of),
            "relative_diff": sum(relative) / len(relative), "largest_relative_diff": max(relative),
            "max_abs_diff": max(one.max_abs_diff for one in of),
        })  # fmt: skip
    return from_rows(rows)
