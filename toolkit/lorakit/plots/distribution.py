"""The entries of ΔW: as a whole, and along the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from loracore.adapter import Module
from loracore.jobs.job import Context
from loracore.jobs.plot import PlotParameters
from lorakit.modules.matrices import matrices, opened, weight
from lorakit.modules.survey import survey
from lorakit.plots.drawing import COLOURS, GREY, Drawn, begin, colour_of, component, mark_places, places_of
from lorakit.statistics.matrix import Bounds
from lorakit.statistics.scan import BINS, Grid, Scan, Workspace, scan

_BANDS = ((1, 99), (5, 95), (25, 75))
#: Bins of the scan that are one of the picture.
_COARSE = 128
#: Entries that are looked at; of larger files, rows are drawn.
_LOOKED_AT = 5e8


class _Moments(NamedTuple):
    size: int
    sum: float
    squares: float


def draw(parameters: PlotParameters, context: Context) -> Drawn:
    """Look twice: for mean and spread of all, then at the entries, on bins that all modules share."""
    bounds = Bounds(svd=False)
    with opened(parameters.paths[0]) as file:

        def moments(module: Module, workspace: Workspace) -> _Moments:
            matrix = matrices(module, bounds, workspace)["dW"]
            return _Moments(matrix.size, matrix.sum, matrix.squares)

        first = survey(file.modules, name=file.label, weight=weight, work=moments, context=context)
        size = sum(one.size for one in first.results.values()) or 1
        mean = sum(one.sum for one in first.results.values()) / size
        square = sum(one.squares for one in first.results.values()) / size
        grid = Grid(mean, float(np.sqrt(max(square - mean**2, 0.0))) or 1.0)

        share = min(1.0, _LOOKED_AT / size)

        def entries(module: Module, workspace: Workspace) -> Scan:
            matrix = matrices(module, bounds, workspace)["dW"]
            if share < 1:
                matrix = matrix.drawn(max(1, round(share * matrix.shape[0])))
            return scan(matrix.pieces(), grid, workspace)

        modules = [module for module in file.modules if file.label(module) in first.results]
        found = survey(modules, name=file.label, weight=weight, work=entries, context=context)
        kept = {file.label(module): module for module in modules if file.label(module) in found.results}
        family, faults, warnings = file.adapter.family, file.faults, file.warnings
    scans = found.results
    total = _joined(list(scans.values()), grid)
    quarter, three_quarters = total.percentiles((25, 75)).values()
    facts = [
        f"{family}, {len(scans):,} modules, {size / 1e6:,.1f} million entries of ΔW",
        f"mean {mean:.2e}, std {grid.std:.3e}",
        f"half of all within {max(abs(quarter), abs(three_quarters)):.2e}",
        f"from 1 in {1 / share:.0f} rows" if share < 1 else f"{total.minimum:.3g} to {total.maximum:.3g}",
    ]
    figure = begin(parameters.paths[0], facts, (14, 8.2))
    upper, lower = figure.subplots(2, 1)
    of = {label: module.component for label, module in kept.items()}
    _density(upper, scans, of, grid)
    _along(lower, scans, grid)
    return Drawn(figure, (*faults, *first.faults, *found.faults), warnings)


def _joined(scans: Sequence[Scan], grid: Grid) -> Scan:
    counts = np.zeros(BINS, np.int64)
    for one in scans:
        if one.counts is not None:
            counts += one.counts
    return Scan(
        sum(one.size for one in scans),
        min((one.minimum for one in scans), default=0.0),
        max((one.maximum for one in scans), default=0.0),
        sum(one.absolute_sum for one in scans),
        sum(one.positive for one in scans),
        sum(one.negative for one in scans),
        grid,
        counts,
    )


def _density(axes: Axes, scans: Mapping[str, Scan], of: Mapping[str, str], grid: Grid) -> None:
    """How often each value is, for the parts of the model; and what a normal distribution would be."""
    edges = np.array([grid.edge(place) for place in range(0, BINS + 1, _COARSE)])
    middles, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    peak, lowest, reach = 0.0, np.inf, 1.0
    for part, colour in colour_of(list(of.values())).items():
        joined = _joined([scans[label] for label in scans if of[label] == part], grid)
        counts = (joined.counts if joined.counts is not None else np.zeros(BINS)).reshape(-1, _COARSE).sum(axis=1)
        density = counts / (joined.size * width)
        seen = np.flatnonzero(density[1:-1]) + 1
        density[[0, -1]] = 0
        axes.stairs(
            np.where(density > 0, density, np.nan), edges, color=colour, linewidth=1.6, label=component(part)
        )
        axes.stairs(density, edges, color=colour, fill=True, alpha=0.12)
        if seen.size:
            peak, lowest = max(peak, density.max()), min(lowest, density[seen].min())
            reach = max(reach, *np.abs(middles[[seen[0], seen[-1]]] - grid.mean) / grid.std)
    normal = np.exp(-(((middles - grid.mean) / grid.std) ** 2) / 2) / (grid.std * np.sqrt(2 * np.pi))
    axes.plot(middles, normal, color=GREY, linestyle="--", linewidth=1.2, label="normal, of the same std")
    reach = min(reach * 1.05, 10.0)
    axes.set_xlim(grid.mean - reach * grid.std, grid.mean + reach * grid.std)
    axes.set_yscale("log")
    if np.isfinite(lowest):
        axes.set_ylim(max(lowest, peak * 1e-8) / 2, peak * 3)
    axes.set_title("How often the entries of ΔW have a value (density, logarithmic)")
    axes.set_xlabel("entry of ΔW")
    axes.legend(loc="upper right")


def _along(axes: Axes, scans: Mapping[str, Scan], grid: Grid) -> None:
    """Bands of percentiles at each place."""
    labels = list(scans)
    places = places_of(labels)
    order = list(dict.fromkeys(places))
    joined = [
        _joined([scans[label] for label, place in zip(labels, places, strict=True) if place == one], grid)
        for one in order
    ]
    found = [one.percentiles([percent for band in _BANDS for percent in band]) for one in joined]
    columns = np.arange(len(order) + 1) - 0.5
    for (low, high), alpha in zip(_BANDS, (0.25, 0.45, 0.9), strict=True):
        bottom, top = (_steps([one[percent] for one in found]) for percent in (low, high))
        axes.fill_between(
            columns,
            bottom,
            top,
            step="post",
            color=COLOURS[0],
            alpha=alpha,
            linewidth=0,
            label=f"{low} to {high} %",
        )
    axes.axhline(0, color="#222222", linewidth=0.6)
    axes.set_xlim(-0.5, len(order) - 0.5)
    axes.grid(axis="x", visible=False)
    mark_places(axes, order)
    axes.set_title("Where the entries lie, by place in the model (percentiles)")
    axes.set_ylabel("entry of ΔW")
    # The legend stands above the bands.
    low_end, high_end = axes.get_ylim()
    axes.set_ylim(low_end, high_end + 0.15 * (high_end - low_end))
    axes.legend(loc="upper right", ncols=3, facecolor="white", frameon=True, framealpha=0.85, edgecolor="none")


def _steps(values: Sequence[float]) -> NDArray[np.float64]:
    """As `step="post"` needs them: the last one twice."""
    return np.array([*values, *values[-1:]])
