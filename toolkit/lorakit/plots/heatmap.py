"""‖ΔW‖ of each module: where it is along the model, and which of the modules there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.image import AxesImage

from loracore.jobs.job import Context
from loracore.jobs.plot import PlotParameters
from loracore.jobs.spectrum import ModuleSpectrum
from lorakit.jobs.spectrum import spectra_of
from lorakit.plots.drawing import (
    MAP,
    Drawn,
    begin,
    component,
    kinds_and_places,
    mark_places,
    place_and_kind,
    plain_logarithmic,
)

#: Decades of the colour scale: what is smaller has its darkest end.
_DECADES = 2.5


def draw(parameters: PlotParameters, context: Context) -> Drawn:
    """A map for each part of the model, on one scale."""
    found = spectra_of(parameters.paths[0], context)
    members: dict[str, list[ModuleSpectrum]] = defaultdict(list)
    for module in found.modules:
        members[_part(module)].append(module)
    grids = {part: _Grid(modules) for part, modules in members.items()}
    norms = np.array([module.frobenius_norm for module in found.modules])
    top = max(found.modules, key=lambda module: module.frobenius_norm, default=None)
    facts = [
        f"{found.family}, {len(found.modules):,} modules",
        f"‖ΔW‖ {np.sqrt((norms**2).sum()):.4g}",
        f"greatest {norms.max():.3g}: {top.module}" if top else "",
    ]
    high = float(norms.max()) or 1.0
    low = max(float(norms[norms > 0].min()) if (norms > 0).any() else high / 10, high / 10**_DECADES)
    scale = LogNorm(min(low, high * 0.99), high)
    heights = [len(grid.kinds) for grid in grids.values()]
    figure = begin(parameters.paths[0], facts, (15, 1.9 + sum(heights) * 0.27 + 0.75 * len(heights)))
    axes = figure.subplots(len(grids), 1, squeeze=False, height_ratios=heights)[:, 0]
    image = None
    for one, part in zip(axes, grids, strict=True):
        image = grids[part].draw(one, scale)
        one.set_title(f"{part}: ‖ΔW‖ of each module, by kind and place")
    assert image is not None
    bar = figure.colorbar(
        image, ax=list(axes), fraction=0.025, pad=0.01, extend="min" if low == high / 10**_DECADES else "neither"
    )
    bar.set_label("‖ΔW‖, logarithmic")
    plain_logarithmic(bar.ax.yaxis)
    return Drawn(figure, found.faults, found.warnings)


def _part(module: ModuleSpectrum) -> str:
    """What has a map of its own: a transformer's kinds of blocks have other modules each."""
    if module.component in {"transformer", "llm"}:
        return place_and_kind(module.module)[0].rpartition(".")[0] or component(module.component)
    return component(module.component)


class _Grid:
    """Kinds of modules by places; what is not there is NaN."""

    def __init__(self, modules: Sequence[ModuleSpectrum]) -> None:
        self.kinds, self.places, cells = kinds_and_places([module.module for module in modules])
        self.values = np.full((len(self.kinds), len(self.places)), np.nan)
        for module, (row, column) in zip(modules, cells, strict=True):
            self.values[row, column] = module.frobenius_norm

    def draw(self, axes: Axes, scale: LogNorm) -> AxesImage:
        floor = scale.vmin or 0.0
        # A module without any change is at the dark end; one that is not there stays white.
        image = axes.imshow(
            np.maximum(self.values, floor), aspect="auto", cmap=MAP, norm=scale, interpolation="nearest"
        )
        axes.set_yticks(np.arange(len(self.kinds)), self.kinds, fontsize=8.5)
        axes.grid(visible=False)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.tick_params(length=2)
        mark_places(axes, self.places)
        return image
