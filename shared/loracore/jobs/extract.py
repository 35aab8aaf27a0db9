"""What the job `extract` takes and gives: the difference of two models as a LoRA (SPEC section 8)."""

from __future__ import annotations

import msgspec

from loracore.jobs.change import Writing
from loracore.jobs.compare import Extraction, Model, Quality
from loracore.jobs.job import Spec
from loracore.jobs.results import Fault


class ExtractParameters(msgspec.Struct, frozen=True):
    """`base`, `finetuned`: as of `CompareParameters`. `writing.path`: a folder."""

    base: bytes
    finetuned: bytes
    rank: int
    writing: Writing
    quality: Quality = "fast"


class ExtractResult(msgspec.Struct, frozen=True):
    """What became of it. `layers`: that were compared; `resumed`: of these, finished by a run before this one."""

    base: Model
    finetuned: Model
    output: bytes
    is_valid: bool
    written: bool
    layers: int
    resumed: int = 0
    modified: int = 0
    seconds: float = 0.0
    extraction: Extraction | None = None
    files: tuple[bytes, ...] = ()
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()


SPEC = Spec("extract", ExtractParameters, ExtractResult, help="What two models differ by, as a LoRA.")
