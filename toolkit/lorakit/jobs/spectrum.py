"""`spectrum`: singular values of each module's ΔW (SPEC section 7)."""

from __future__ import annotations

import os

from loracore.adapter import Module
from loracore.errors import MalformedFile, UsageError
from loracore.jobs.job import Context
from loracore.jobs.spectrum import SPEC, ModuleSpectrum, SpectrumParameters, SpectrumResult
from lorakit.lowrank import svd
from lorakit.modules.matrices import matrices, opened, weight
from lorakit.modules.survey import Unfit, survey
from lorakit.statistics.matrix import Bounds
from lorakit.statistics.scan import Workspace


def run(parameters: SpectrumParameters, context: Context) -> SpectrumResult:
    """Raises FileError for a file that is no adapter, and UsageError."""
    if parameters.svd_limit is not None and parameters.svd_limit < 1:
        raise UsageError(f"a limit of {parameters.svd_limit} rows leaves no spectrum; give 1 or more")
    bounds = Bounds(svd_limit=parameters.svd_limit)
    with opened(parameters.path) as file:

        def spectrum(module: Module, workspace: Workspace) -> ModuleSpectrum:
            return _spectrum(file.label(module), module, bounds, workspace)

        found = survey(file.modules, name=file.label, weight=weight, work=spectrum, context=context)
        return SpectrumResult(
            path=parameters.path,
            family=file.adapter.family,
            modules=tuple(found.results.values()),
            faults=(*file.faults, *found.faults),
            warnings=file.warnings,
        )


JOB = SPEC.implemented(run)


def spectra_of(path: bytes, context: Context) -> SpectrumResult:
    """All spectra of a file, for pictures. Raises FileError, also where no module has a spectrum."""
    found = run(SpectrumParameters(path), context)
    if not found.modules:
        why = f": {found.faults[0].reason}" if found.faults else ""
        raise MalformedFile(f"no module of it can be drawn{why}", os.fsdecode(path))
    return found


def _spectrum(name: str, module: Module, bounds: Bounds, workspace: Workspace) -> ModuleSpectrum:
    matrix = matrices(module, bounds, workspace)["dW"]
    values = matrix.singular_values
    if values is None:
        raise Unfit(f"its spectrum needs a square of {matrix.core:,} rows, more than the limit")
    return ModuleSpectrum(
        module=name,
        block=module.block,
        component=module.component,
        algorithm=module.algorithm,
        rank=module.rank,
        shape=matrix.shape,
        spectral_norm=float(values[0]),
        nuclear_norm=float(values.sum()),
        frobenius_norm=float((values @ values) ** 0.5),
        effective_rank=svd.effective_rank(values),
        stable_rank=svd.stable_rank(values),
        rank_90=svd.rank_for(values, 0.9),
        rank_95=svd.rank_for(values, 0.95),
        rank_99=svd.rank_for(values, 0.99),
        singular_values=tuple(values.tolist()),
    )
