"""What the job `importance` takes and gives: statistics of each module, and what blocks weigh (SPEC section 7)."""

from __future__ import annotations

from typing import Literal

import msgspec

from loracore.jobs.job import Spec
from loracore.jobs.results import Fault, Table

#: What a block's importance is the sum of: ‖ΔW‖²_F, or the softmax of the spectral norms.
By = Literal["energy", "softmax"]
Dtype = Literal["float32", "float64"]
Device = Literal["cpu", "cuda"]


class ImportanceParameters(msgspec.Struct, frozen=True):
    """`path`: a file, or a PEFT adapter folder.

    `threshold`: what share of the importance the covering set of blocks holds, 0 to 1. `singular_values`: how many
    of the first have a column. `exact`: percentiles by sorting. `svd_limit`: no spectrum where it needs the
    eigenvalues of a larger square; a LoRA's is as large as its rank. `dtype`: of ΔW's entries; spectra are in
    double precision always.
    """

    path: bytes
    threshold: float = 0.9
    by: By = "energy"
    singular_values: int = 8
    percentiles: bool = True
    exact: bool = False
    svd: bool = True
    svd_limit: int | None = None
    dtype: Dtype = "float32"
    device: Device = "cpu"


class BlockImportance(msgspec.Struct, frozen=True):
    """A block among all: shares of the file's ‖ΔW‖²_F and of the softmax of spectral norms (None without SVD)."""

    block: str
    modules: int
    l2: float
    energy: float
    softmax: float | None
    covering: bool


class ImportanceResult(msgspec.Struct, frozen=True):
    """`modules`: a row for each, in the file's order. `blocks`: the most important first.

    `covering`: the smallest set of blocks that holds `covered` ≥ `threshold` of the importance.
    """

    path: bytes
    family: str
    modules: Table
    blocks: tuple[BlockImportance, ...]
    by: By
    threshold: float
    covering: tuple[str, ...]
    covered: float
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()


SPEC = Spec(
    "importance",
    ImportanceParameters,
    ImportanceResult,
    help="Which modules and blocks carry the weight.",
    short=True,
)
