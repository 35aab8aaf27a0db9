"""What the job `spectrum` takes and gives: the singular values of each module's ΔW (SPEC section 7)."""

from __future__ import annotations

import msgspec

from loracore.jobs.job import Spec
from loracore.jobs.results import Fault


class SpectrumParameters(msgspec.Struct, frozen=True):
    """`path`: a file, or a PEFT adapter folder. `svd_limit`: as of `ImportanceParameters`."""

    path: bytes
    svd_limit: int | None = None


class ModuleSpectrum(msgspec.Struct, frozen=True):
    """A module's singular values, the largest first, and what follows from them.

    `shape` is ΔW's as a matrix. `rank_90` and so on: the least rank that holds this share of ‖ΔW‖²_F.
    """

    module: str
    block: str
    component: str
    algorithm: str
    rank: int | None
    shape: tuple[int, int]
    spectral_norm: float
    nuclear_norm: float
    frobenius_norm: float
    effective_rank: float
    stable_rank: float
    rank_90: int
    rank_95: int
    rank_99: int
    singular_values: tuple[float, ...]


class SpectrumResult(msgspec.Struct, frozen=True):
    """`modules` in the file's order."""

    path: bytes
    family: str
    modules: tuple[ModuleSpectrum, ...]
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()


SPEC = Spec("spectrum", SpectrumParameters, SpectrumResult, help="Singular values of each module.", short=True)
