"""`extract`: the difference of two models as a LoRA, with the error of each layer (SPEC section 8)."""

from __future__ import annotations

from loracore.errors import UsageError
from loracore.jobs.compare import Extraction
from loracore.jobs.extract import SPEC, ExtractParameters, ExtractResult
from loracore.jobs.job import Context
from loracore.paths import shown
from lorakit.difference import documents, session
from lorakit.difference.session import Session, Walked
from lorakit.difference.walk import Wish
from lorakit.lowrank.device import array_module
from lorakit.output.rounding import DTYPES


def run(parameters: ExtractParameters, context: Context) -> ExtractResult:
    """Raises FileError, and UsageError also where there is nothing to extract."""
    session.check_rank(parameters.rank)
    session.check_quality(parameters.quality)
    question = {
        "operation": "extract", "rank": parameters.rank, "quality": parameters.quality,
        "dtype": parameters.writing.dtype,
    }  # fmt: skip
    with session.opened(parameters.base, parameters.finetuned, parameters.writing, question) as opened:
        if parameters.writing.check:
            return _result(parameters, opened, None, context)
        wish = Wish(
            spectra=False,
            rank=parameters.rank,
            quality=parameters.quality,
            stored=DTYPES[session.stored(opened)],
            arrays=array_module(parameters.writing.device),
        )
        with session.walked(opened, wish, context) as found:
            if not any(record.factors for record in found.records.values()):
                found.give_up()
                found_out = ((one.name, one.fault or one.left_out) for one in found.records.values())
                why = next((f" (but {name}: {text})" for name, text in found_out if text), "")
                raise UsageError(
                    f"{shown(parameters.finetuned)}: no matrix of it differs from {shown(parameters.base)}, "
                    f"so there is nothing to extract{why}"
                )
            return _result(parameters, opened, found, context)


JOB = SPEC.implemented(run)


def _result(
    parameters: ExtractParameters, opened: Session, found: Walked | None, context: Context
) -> ExtractResult:
    extraction: Extraction | None = None
    files: tuple[bytes, ...] = ()
    if found is not None:
        extraction, files = session.extraction(opened, found, parameters.rank, parameters.quality, context)
    records = found.records if found else {}
    return ExtractResult(
        base=session.model(opened.models[0]),
        finetuned=session.model(opened.models[1]),
        output=parameters.writing.path,
        is_valid=True,
        written=found is not None,
        layers=len(documents.compared(records)) if found else len(opened.paired.pairs),
        resumed=found.resumed if found else 0,
        modified=len(documents.most_modified(records)),
        seconds=found.seconds if found else 0.0,
        extraction=extraction,
        files=files,
        faults=session.faults(opened, records),
        warnings=opened.warnings,
    )
