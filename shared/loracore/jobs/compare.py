"""What the job `compare` takes and gives: what two models differ by, layer by layer (SPEC section 8)."""

from __future__ import annotations

from typing import Literal

import msgspec

from loracore.jobs.change import Writing
from loracore.jobs.job import Spec
from loracore.jobs.results import Fault

#: What computes the differences; `both` times the two and checks that they agree.
Engine = Literal["numpy", "torch", "both"]
#: `exact` reaches the optimum of Eckart and Young, `fast` about 0.1 % less.
Quality = Literal["fast", "exact"]


class CompareParameters(msgspec.Struct, frozen=True):
    """`base`, `finetuned`: a model file, or a folder of Transformers or diffusers. `writing.path`: a folder.

    `threshold`: an entry that differs by more is changed. `lora_analysis`: also the spectra of the matrices that
    changed. `lora_rank`: also the difference as a LoRA of that rank, with `quality`.
    """

    base: bytes
    finetuned: bytes
    writing: Writing
    threshold: float = 1e-6
    engine: Engine = "numpy"
    lora_analysis: bool = True
    lora_rank: int | None = None
    quality: Quality = "fast"


class Model(msgspec.Struct, frozen=True):
    """A model that was read. `size`: bytes of its layers."""

    path: bytes
    files: int
    layers: int
    parameters: int
    size: int
    dtypes: dict[str, int]


class LayerDifference(msgspec.Struct, frozen=True):
    """As in `weight_differences.json`."""

    layer: str
    shape: tuple[int, ...]
    mean_abs_diff: float
    max_abs_diff: float
    relative_diff: float | None
    changed_ratio: float


class Extraction(msgspec.Struct, frozen=True):
    """The difference as a LoRA. `error`: ‖X - BA‖ / ‖X‖ over all modules that it has."""

    rank: int
    modules: int
    convention: str
    dtype: str
    error: float
    quality: Quality
    faults: tuple[Fault, ...] = ()


class CompareResult(msgspec.Struct, frozen=True):
    """What became of it.

    `layers`: that were compared; `resumed`: of these, finished by a run before this one. `most_modified`: 20 of
    `modified`, the greatest relative difference first. `faults`: layers that could not be compared, and why.
    `disagreement`: the largest relative difference between two engines' numbers.
    """

    base: Model
    finetuned: Model
    output: bytes
    is_valid: bool
    written: bool
    threshold: float
    layers: int
    resumed: int = 0
    modified: int = 0
    seconds: float = 0.0
    disagreement: float | None = None
    looks_like_lora: bool | None = None
    suggested_rank: int | None = None
    target_modules: tuple[str, ...] = ()
    most_modified: tuple[LayerDifference, ...] = ()
    extraction: Extraction | None = None
    files: tuple[bytes, ...] = ()
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()


SPEC = Spec("compare", CompareParameters, CompareResult, help="What two models differ by, layer by layer.")
