"""Two files or more, side by side: how strong, how wide, and how alike their modules are.

How alike is the cosine of their ΔW, by the factors: ⟨ΔW₁, ΔW₂⟩ = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ), so nothing as large as ΔW is
formed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from loracore.adapter import Module
from loracore.jobs.job import Context
from loracore.jobs.plot import PlotParameters
from loracore.jobs.spectrum import SpectrumResult
from lorakit.jobs.spectrum import spectra_of
from lorakit.modules.matrices import flat, matrices, opened, weight
from lorakit.modules.survey import Survey, Unfit, survey
from lorakit.plots.drawing import (
    COLOURS,
    Drawn,
    begin,
    from_zero,
    mark_places,
    name_of,
    places_of,
    plain_logarithmic,
)
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


def draw(parameters: PlotParameters, context: Context) -> Drawn:
    """‖ΔW‖ and cosines with the first file along the model; effective ranks; one ‖ΔW‖ against the other."""
    paths = parameters.paths
    found = [spectra_of(path, context) for path in paths]
    alike = [likeness(paths[0], path, context) for path in paths[1:]]
    names = [f"{index + 1}: {name_of(path, 40)}" for index, path in enumerate(paths)]
    facts = [f"{index + 1}: {_fact(one)}" for index, one in enumerate(found)]
    facts += [
        f"1·{index + 1}: cosine {overall(one):z.3f} over {len(one.results):,} modules in common"
        for index, one in enumerate(alike, 1)
    ]
    figure = begin(paths, facts, (14, 9.6))
    axes = figure.subplot_mosaic([["norms", "norms"], ["cosines", "cosines"], ["left", "right"]])
    order = _order(found)
    _norms(axes["norms"], found, names, order)
    _cosines(axes["cosines"], [one.results for one in alike], names, order)
    _ranks(axes["left"], found, names)
    _against(axes["right"], found, names)
    faults = [fault for one in found for fault in one.faults] + [fault for one in alike for fault in one.faults]
    warnings = [warning for one in found for warning in one.warnings]
    return Drawn(figure, tuple(dict.fromkeys(faults)), tuple(dict.fromkeys(warnings)))


def _fact(found: SpectrumResult) -> str:
    norm = float(np.sqrt(sum(module.frobenius_norm**2 for module in found.modules)))
    effective = np.median([module.effective_rank for module in found.modules] or [0.0])
    return f"{found.family}, {len(found.modules):,} modules, ‖ΔW‖ {norm:.4g}, effective rank {effective:.1f}"


def _order(found: Sequence[SpectrumResult]) -> list[str]:
    """The places of all files; those that only later ones have are last."""
    return list(
        dict.fromkeys(place for one in found for place in places_of([each.module for each in one.modules]))
    )


def _norms(axes: Axes, found: Sequence[SpectrumResult], names: Sequence[str], order: Sequence[str]) -> None:
    for one, name, colour in zip(found, names, COLOURS, strict=False):
        squares: dict[str, float] = defaultdict(float)
        for module, place in zip(one.modules, places_of([each.module for each in one.modules]), strict=True):
            squares[place] += module.frobenius_norm**2
        values = [squares[place] ** 0.5 if place in squares else np.nan for place in order]
        axes.plot(values, color=colour, marker="o", markersize=3.5, linewidth=1.1, label=name)
    from_zero(axes, above=0.15)
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.grid(axis="x", visible=False)
    mark_places(axes, order)
    axes.set_title("‖ΔW‖ by place in the model")
    axes.legend(loc="upper right", facecolor="white", frameon=True, framealpha=0.85, edgecolor="none")


def _cosines(
    axes: Axes, alike: Sequence[Mapping[str, Likeness]], names: Sequence[str], order: Sequence[str]
) -> None:
    """Over the modules of a place as one vector."""
    for one, name, colour in zip(alike, names[1:], COLOURS[1:], strict=False):
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for (_, module), place in zip(one.items(), places_of(list(one)), strict=True):
            for index, value in enumerate((module.product, module.first**2, module.second**2)):
                sums[place][index] += value
        values = [
            Likeness(sums[place][0], sums[place][1] ** 0.5, sums[place][2] ** 0.5).cosine
            if place in sums
            else np.nan
            for place in order
        ]
        axes.plot(values, color=colour, marker="o", markersize=3.5, linewidth=1.1, label=f"1 and {name}")
    if not any(alike):
        axes.text(
            0.5, 0.5, "no modules in common", ha="center", va="center", transform=axes.transAxes, fontsize=13
        )
    axes.axhline(0, color="#222222", linewidth=0.8)
    axes.set_ylim(-1.05, 1.05)
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.grid(axis="x", visible=False)
    axes.set_title("Cosine of ΔW with that of file 1: 1 the same direction, 0 unrelated, −1 opposite")
    mark_places(axes, order)


def _ranks(axes: Axes, found: Sequence[SpectrumResult], names: Sequence[str]) -> None:
    values = [[module.effective_rank for module in one.modules] for one in found]
    most = max((max(each, default=0.0) for each in values), default=0.0)
    least = min((min(each, default=0.0) for each in values), default=0.0)
    bins = np.linspace(least * 0.98, most * 1.02 or 1.0, 41).tolist()
    for each, name, colour in zip(values, names, COLOURS, strict=False):
        axes.hist(each, bins=bins, color=colour, alpha=0.25)
        axes.hist(each, bins=bins, color=colour, histtype="step", linewidth=1.6, label=name)
    axes.set_title("Effective rank")
    axes.set_ylabel("modules")


def _against(axes: Axes, found: Sequence[SpectrumResult], names: Sequence[str]) -> None:
    """‖ΔW‖ of a module in the first, and in another file."""
    first = {module.module: module.frobenius_norm for module in found[0].modules}
    seen: list[float] = []
    for one, colour in zip(found[1:], COLOURS[1:], strict=False):
        points = [
            (first[module.module], module.frobenius_norm)
            for module in one.modules
            if first.get(module.module, 0) > 0 and module.frobenius_norm > 0
        ]
        if points:
            xs, ys = np.array(points).T
            axes.scatter(xs, ys, s=12, color=colour, alpha=0.55, linewidth=0)
            seen += [*xs.tolist(), *ys.tolist()]
    if seen:
        low, high = min(seen) / 1.3, max(seen) * 1.3
        axes.plot([low, high], [low, high], color="#222222", linewidth=0.8, zorder=0)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        plain_logarithmic(axes.xaxis)
        plain_logarithmic(axes.yaxis)
    axes.set_title("‖ΔW‖ of each module in common; on the line: equally strong")
    axes.set_xlabel("in file 1")
    axes.set_ylabel("in file 2" if len(found) == 2 else "in the others")
