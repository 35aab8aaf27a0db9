"""`compare`: what two models differ by, a layer at a time (SPEC section 8)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import isfinite
from typing import get_args

import msgspec

from loracore.errors import UsageError
from loracore.jobs.compare import SPEC, CompareParameters, CompareResult, Extraction, LayerDifference
from loracore.jobs.compare import Engine as EngineName
from loracore.jobs.job import Context
from loracore.jobs.results import Fault
from loracore.paths import shown
from lorakit.difference import configs, documents, session
from lorakit.difference import folder as place
from lorakit.difference.journal import Record
from lorakit.difference.measure import Engine
from lorakit.difference.session import Session, Walked
from lorakit.difference.walk import Wish
from lorakit.jobs.compare import texts, torch_engine
from lorakit.lowrank.device import array_module
from lorakit.output.rounding import DTYPES

_TOP = 20
#: Beyond rounding of single precision.
_AGREE = 1e-3
_LAST = "comparison_report.txt"


def run(parameters: CompareParameters, context: Context) -> CompareResult:
    """Raises FileError, UsageError, and MissingPackage where an engine is not installed."""
    question = {
        "operation": "compare", "threshold": parameters.threshold, "engine": parameters.engine,
        "lora_analysis": parameters.lora_analysis, "lora_rank": parameters.lora_rank,
        "quality": parameters.quality, "dtype": parameters.writing.dtype,
    }  # fmt: skip
    engines = _engines(parameters)
    with session.opened(parameters.base, parameters.finetuned, parameters.writing, question) as opened:
        if parameters.writing.check:
            return _result(parameters, opened, None)
        with session.walked(opened, _wish(parameters, opened, engines), context) as found:
            return _written(parameters, opened, found, context)


JOB = SPEC.implemented(run)


def _engines(parameters: CompareParameters) -> dict[str, Engine | None]:
    """What computes, the one whose numbers count first; None for numpy. Raises UsageError and MissingPackage."""
    if not (isfinite(parameters.threshold) and parameters.threshold >= 0):
        raise UsageError(f"threshold {parameters.threshold}: give 0 or more")
    if parameters.lora_rank is not None:
        session.check_rank(parameters.lora_rank)
    if parameters.engine not in get_args(EngineName):
        raise UsageError(f"there is no engine {parameters.engine!r}; there are {', '.join(get_args(EngineName))}")
    session.check_quality(parameters.quality)
    engines: dict[str, Engine | None] = {}
    if parameters.engine != "torch":
        engines["numpy"] = None
    if parameters.engine != "numpy":
        engines["torch"] = torch_engine.engine()
    return engines


def _wish(parameters: CompareParameters, opened: Session, engines: dict[str, Engine | None]) -> Wish:
    return Wish(
        threshold=parameters.threshold,
        engines=engines,
        spectra=parameters.lora_analysis,
        rank=parameters.lora_rank,
        quality=parameters.quality,
        stored=DTYPES[session.stored(opened)],
        arrays=array_module(parameters.writing.device),
    )


def _written(parameters: CompareParameters, opened: Session, found: Walked, context: Context) -> CompareResult:
    """Write all files; `comparison_report.txt` is the last."""
    folder, records = parameters.writing.path, found.records
    faults = session.faults(opened, records)
    extraction: Extraction | None = None
    files: tuple[bytes, ...] = ()
    if parameters.lora_rank is not None:
        extraction, files = session.extraction(opened, found, parameters.lora_rank, parameters.quality, context)
    architecture = documents.architecture(opened.models, opened.paired, records)
    config = configs.compare(*opened.models)
    names = shown(parameters.base), shown(parameters.finetuned)
    jsons = {
        "weight_differences.json": documents.weight_differences(records, found.seconds),
        "config_comparison.json": config,
        "architecture_comparison.json": architecture,
    }
    if parameters.lora_analysis:
        jsons["lora_analysis.json"] = documents.lora_analysis(records)
    listing = texts.difference(names, parameters.threshold, records, faults, found.seconds)
    place.write_text(folder, "difference.txt", listing)
    for name, document in jsons.items():
        place.write_json(folder, name, document)
    place.write_text(folder, _LAST, texts.report(architecture, records, faults, config))
    written = [os.path.join(folder, name.encode()) for name in ("difference.txt", *jsons, _LAST)]
    result = _result(parameters, opened, found, faults)
    analysis = jsons.get("lora_analysis.json", {})
    return msgspec.structs.replace(
        result,
        looks_like_lora=analysis.get("looks_like_lora"),
        suggested_rank=analysis.get("suggested_rank"),
        target_modules=tuple(analysis.get("target_modules", ())),
        extraction=extraction,
        files=(*written, *files),
    )


def _result(
    parameters: CompareParameters, opened: Session, found: Walked | None, faults: tuple[Fault, ...] | None = None
) -> CompareResult:
    records: Mapping[str, Record] = found.records if found else {}
    gap = max((one.disagreement for one in records.values() if one.disagreement is not None), default=None)
    warnings = list(opened.warnings)
    if gap is not None and gap > _AGREE:
        warnings.append(f"numpy and torch disagree by {gap:.1e}; difference.txt says where")
    changed = documents.most_modified(records)
    return CompareResult(
        base=session.model(opened.models[0]),
        finetuned=session.model(opened.models[1]),
        output=parameters.writing.path,
        is_valid=True,
        written=found is not None,
        threshold=parameters.threshold,
        layers=len(documents.compared(records)) if found else len(opened.paired.pairs),
        resumed=found.resumed if found else 0,
        modified=len(changed),
        seconds=found.seconds if found else 0.0,
        disagreement=gap,
        most_modified=tuple(
            LayerDifference(
                one.name, one.shape, one.mean_abs_diff, one.max_abs_diff, one.relative_diff, one.changed_ratio
            )
            for one in changed[:_TOP]
        ),
        faults=session.faults(opened, records) if faults is None else faults,
        warnings=tuple(warnings),
    )
