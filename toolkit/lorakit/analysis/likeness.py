"""How alike the modules of two files are: the cosine of their ΔW, by the factors.

⟨ΔW₁, ΔW₂⟩ = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ), so nothing as large as ΔW is formed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loracore.adapter import Module
from loracore.jobs.frame import Context
from lorakit.analysis.matrices import flat, matrices, opened, weight
from lorakit.analysis.survey import Survey, Unfit, survey
from lorakit.statistics.matrix import Bounds, Matrix, Product
from lorakit.statistics.scan import Workspace


class Likeness(NamedTuple):
    """Of one module: ⟨ΔW₁, ΔW₂⟩, ‖ΔW₁‖ and ‖ΔW₂‖."""

    product: float
    first: float
    second: float

    @property
    def cosine(self) -> float:
        """0 where one of both is 0."""
        norms = self.first * self.second
        return self.product / norms if norms else 0.0


def likeness(first: bytes, second: bytes, context: Context) -> Survey[Likeness]:
    """By the modules that both files have, whatever their naming conventions. Raises FileError."""
    bounds = Bounds(svd=False, percentiles=False)
    with opened(first) as left, opened(second) as right:
        partners = {(module.component, module.name): module for module in right.modules}
        pairs = [module for module in left.modules if (module.component, module.name) in partners]

        def alike(module: Module, workspace: Workspace) -> Likeness:
            other = partners[module.component, module.name]
            return _alike(matrices(module, bounds, workspace)["dW"], matrices(other, bounds, workspace)["dW"])

        return survey(pairs, name=left.label, weight=weight, work=alike, context=context)


def overall(found: Survey[Likeness]) -> float:
    """The cosine of both files as one vector each, over the modules in common."""
    parts = list(found.results.values())
    product = sum(one.product for one in parts)
    return Likeness(product, _norm([one.first for one in parts]), _norm([one.second for one in parts])).cosine


def _alike(first: Matrix, second: Matrix) -> Likeness:
    if first.shape != second.shape:
        raise Unfit(f"of another shape in the other file: {first.shape} and {second.shape}")
    if isinstance(first, Product) and isinstance(second, Product):
        product = first.inner(second)
    else:
        product = float(_dense(first).ravel() @ _dense(second).ravel())
    return Likeness(product, first.frobenius, second.frobenius)


def _dense(matrix: Matrix) -> NDArray[np.float64]:
    return flat(np.concatenate([block.astype(np.float64) for block in matrix.blocks()]))


def _norm(values: list[float]) -> float:
    return float(np.linalg.norm(values)) if values else 0.0
