"""Singular values, the energy that they hold, and what rank each module really uses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from loracore.jobs.job import Context
from loracore.jobs.plot import PlotParameters
from loracore.jobs.spectrum import ModuleSpectrum
from lorakit.jobs.spectrum import spectra_of
from lorakit.lowrank.svd import cumulative_energy
from lorakit.plots.drawing import (
    COLOURS,
    GREY,
    Drawn,
    begin,
    colour_of,
    component,
    from_zero,
    mark_places,
    places_of,
    plain_logarithmic,
)

#: Singular values that are drawn; of dense modules there are thousands.
_MOST = 128
#: Below this part of the greatest one, a singular value is storage noise.
_FLOOR = 1e-4


def draw(parameters: PlotParameters, context: Context) -> Drawn:
    """Above: spectra and cumulative energies, as medians and bands. Below: effective ranks along the model."""
    found = spectra_of(parameters.paths[0], context)
    modules = [module for module in found.modules if module.spectral_norm > 0]
    effective = np.array([module.effective_rank for module in modules] or [0.0])
    ranks = sorted({module.rank for module in modules if module.rank is not None})
    stated = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}" if ranks else "no ranks"
    enough = int(np.percentile([module.rank_95 for module in modules] or [0], 95))
    facts = [
        f"{found.family}, {len(found.modules):,} modules, {stated}",
        f"effective rank: median {np.median(effective):.1f}, {effective.min():.1f} to {effective.max():.1f}",
        f"rank {enough} is enough for 95 % of ‖ΔW‖² in 19 of 20 modules",
    ]
    figure = begin(parameters.paths[0], facts, (14, 8.2))
    axes = figure.subplot_mosaic([["left", "right"], ["along", "along"]])
    left, right = axes["left"], axes["right"]
    colours = colour_of([module.component for module in modules])
    _bands(left, modules, colours, _normalised)
    left.set_yscale("log")
    left.set_ylim(bottom=min(0.1, max(_FLOOR, left.get_ylim()[0])), top=1.4)
    plain_logarithmic(left.yaxis)
    left.set_title("Singular values, the greatest as 1")
    _bands(right, modules, colours, _energies)
    right.set_ylim(0, 1.03)
    right.yaxis.set_major_formatter(PercentFormatter(1))
    right.axhline(0.95, color=GREY, linestyle="--", linewidth=1)
    right.set_title("Share of ‖ΔW‖² held by the first singular values")
    if modules:
        left.legend(loc="upper right", title="median, and 5 to 95 % of modules", title_fontsize=9)
    _along(axes["along"], found.modules, colours)
    return Drawn(figure, found.faults, found.warnings)


def _normalised(module: ModuleSpectrum) -> NDArray[np.float64]:
    values = np.array(module.singular_values[:_MOST])
    shares: NDArray[np.float64] = np.maximum(values / values[0], _FLOOR / 10)
    return shares


def _energies(module: ModuleSpectrum) -> NDArray[np.float64]:
    return cumulative_energy(np.array(module.singular_values))[:_MOST]


def _bands(
    axes: Axes,
    modules: Sequence[ModuleSpectrum],
    colours: dict[str, str],
    curve: Callable[[ModuleSpectrum], NDArray[np.float64]],
) -> None:
    """Over the modules of each component; a shorter spectrum does not count behind its end."""
    for part, colour in colours.items():
        curves = [curve(module) for module in modules if module.component == part]
        longest = max(map(len, curves))
        table = np.full((len(curves), longest), np.nan)
        for row, values in zip(table, curves, strict=True):
            row[: len(values)] = values
        low, middle, high = np.nanpercentile(table, (5, 50, 95), axis=0)
        places = np.arange(1, longest + 1)
        axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            places,
            middle,
            color=colour,
            marker="o",
            markersize=3 if longest <= 40 else 0,
            label=f"{component(part)} ({len(curves)})",
        )
    axes.set_xlabel("singular value")
    axes.set_xlim(left=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _along(axes: Axes, modules: Sequence[ModuleSpectrum], colours: dict[str, str]) -> None:
    places = places_of([module.module for module in modules])
    columns = np.arange(len(modules))
    effective = np.array([module.effective_rank for module in modules])
    axes.scatter(
        columns,
        effective,
        s=11,
        color=[colours.get(module.component, COLOURS[0]) for module in modules],
        label="effective rank",
        linewidth=0,
    )
    of: dict[str, list[int]] = defaultdict(list)
    for place, module in zip(places, modules, strict=True):
        of[place].append(module.rank_95)
    needed = [float(np.median(of[place])) for place in places]
    axes.step(
        columns,
        needed,
        where="mid",
        color="#222222",
        linewidth=1.4,
        label="rank that holds 95 % (median of a place)",
    )
    stated = np.array([np.nan if module.rank is None else float(module.rank) for module in modules])
    axes.step(columns, stated, where="mid", color=GREY, linestyle=":", linewidth=1.6, label="rank in the file")
    from_zero(axes)
    axes.set_xlim(-1, len(modules))
    axes.grid(axis="x", visible=False)
    mark_places(axes, places)
    axes.set_title("Ranks of all modules, in the model's order")
    axes.legend(
        loc="lower right",
        ncols=3,
        fontsize=9,
        markerscale=1.6,
        facecolor="white",
        framealpha=0.85,
        frameon=True,
        edgecolor="none",
    )
