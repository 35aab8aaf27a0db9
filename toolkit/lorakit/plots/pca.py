"""What variance the principal components of a file's layers explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from loracore.jobs.job import Context
from loracore.jobs.plot import PlotParameters
from loracore.names.keys import parse_key
from lorakit.jobs import pca
from lorakit.modules.matrices import opened
from lorakit.plots.drawing import GREY, Drawn, begin, colour_of, from_zero, mark_places, places_of

#: Components that are drawn.
_MOST = 128
_SHARE = 0.9
_ROLES = {"down": "A, the input's side (lora_down)", "up": "B, the output's side (lora_up)"}


def draw(parameters: PlotParameters, context: Context) -> Drawn:
    """Above: the variance that the first components explain. Below: how many each layer needs."""
    found = pca.analyse(
        parameters.paths[0], _MOST, context, lambda components: np.cumsum(components.explained_variance_ratio)
    )
    with opened(parameters.paths[0]) as file:
        modules = {layer.name: file.label(module) for module in file.modules for layer in module.layers.values()}
        order = {name: index for index, name in enumerate(modules)}
    # As the modules come; what belongs to none of them is last.
    curves = dict(sorted(found.results.items(), key=lambda item: order.get(item[0], len(order))))
    roles = {name: _role(name) for name in curves}
    needed = {name: _needed(curve) for name, curve in curves.items()}
    facts = [f"{len(curves):,} layers, columns standardised"]
    for role in dict.fromkeys(roles.values()):
        counts = [needed[name] for name in curves if roles[name] == role]
        facts.append(f"{role.split(',')[0]}: {np.median(counts):.0f} components explain {_SHARE:.0%} (median)")
    figure = begin(parameters.paths[0], facts, (14, 8.2))
    upper, lower = figure.subplots(2, 1)
    colours = colour_of(sorted(roles.values()))
    _curves(upper, curves, roles, colours)
    _along(lower, [modules.get(name, name) for name in curves], needed, roles, colours)
    return Drawn(figure, tuple(found.faults), ())


def _role(name: str) -> str:
    key = parse_key(name)
    role = key.role if key else "other"
    return _ROLES.get(role, role)


def _needed(curve: NDArray[np.float64]) -> int:
    return min(int(np.searchsorted(curve, _SHARE)) + 1, len(curve))


def _curves(
    axes: Axes, curves: Mapping[str, NDArray[np.float64]], roles: Mapping[str, str], colours: Mapping[str, str]
) -> None:
    for role, colour in colours.items():
        chosen = [curve for name, curve in curves.items() if roles[name] == role]
        longest = max(map(len, chosen))
        # A layer with fewer components has explained all of it by its last one.
        table = np.ones((len(chosen), longest))
        for row, curve in zip(table, chosen, strict=True):
            row[: len(curve)] = curve
        low, middle, high = np.percentile(table, (5, 50, 95), axis=0)
        places = np.arange(1, longest + 1)
        axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            places,
            middle,
            color=colour,
            marker="o",
            markersize=3.5 if longest <= 40 else 0,
            label=f"{role} ({len(chosen)})",
        )
    axes.axhline(_SHARE, color=GREY, linestyle="--", linewidth=1)
    axes.set_ylim(0, 1.03)
    axes.set_xlim(left=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("components")
    axes.set_title("Variance explained by the first components")
    axes.legend(loc="lower right", title="median, and 5 to 95 % of layers", title_fontsize=9)


def _along(
    axes: Axes,
    modules: Sequence[str],
    needed: Mapping[str, int],
    roles: Mapping[str, str],
    colours: Mapping[str, str],
) -> None:
    places = places_of(modules)
    order = list(dict.fromkeys(places))
    column = {place: index for index, place in enumerate(order)}
    for shift, (role, colour) in enumerate(colours.items()):
        chosen = [
            (column[place], needed[name])
            for name, place in zip(needed, places, strict=True)
            if roles[name] == role
        ]
        xs, ys = np.array(chosen).T
        axes.scatter(
            xs + 0.3 * (shift - (len(colours) - 1) / 2),
            ys,
            s=10,
            color=colour,
            alpha=0.75,
            linewidth=0,
            label=role,
        )
    from_zero(axes)
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.grid(axis="x", visible=False)
    mark_places(axes, order)
    axes.set_title(f"Components that explain {_SHARE:.0%}, a point for each layer, by place")
