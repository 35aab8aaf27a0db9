"""What the blocks weigh, and the smallest set of them that holds the threshold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from loracore.jobs.job import Context
from loracore.jobs.plot import PlotParameters
from loracore.jobs.spectrum import ModuleSpectrum
from lorakit.jobs.spectrum import spectra_of
from lorakit.plots.drawing import COLOURS, GREY, Drawn, begin, mark_places, places_of
from lorakit.statistics.shares import covering

#: Blocks that have a bar of their own.
_BARS = 36
_CHOSEN, _OTHER = COLOURS[0], "#BDBDBD"


def draw(parameters: PlotParameters, context: Context) -> Drawn:
    """Bars, the greatest first; what they hold together; and where they are in the model."""
    found = spectra_of(parameters.paths[0], context)
    squares: dict[str, float] = defaultdict(float)
    for module in found.modules:
        squares[module.block] += module.frobenius_norm**2
    total = sum(squares.values())
    shares = {block: square / total if total else 0.0 for block, square in squares.items()}
    chosen = covering(shares, parameters.threshold)
    facts = [
        f"{found.family}, {len(found.modules):,} modules in {len(shares)} blocks",
        f"{len(chosen)} blocks hold {sum(shares[block] for block in chosen):.1%} of ‖ΔW‖²",
        f"‖ΔW‖ {total**0.5:.4g}",
    ]
    shown = sorted(shares, key=lambda block: -shares[block])[:_BARS]
    figure = begin(parameters.paths[0], facts, (14, max(6.0, 1.8 + 0.215 * len(shown))))
    axes = figure.subplot_mosaic([["bars", "together"], ["bars", "profile"]], width_ratios=(5, 6))
    _bars(axes["bars"], shown, shares, chosen)
    _together(axes["together"], shares, chosen, parameters.threshold)
    _profile(axes["profile"], found.modules, total, chosen)
    return Drawn(figure, found.faults, found.warnings)


def _bars(axes: Axes, shown: Sequence[str], shares: Mapping[str, float], chosen: Sequence[str]) -> None:
    values = [shares[block] for block in shown]
    colours = [_CHOSEN if block in chosen else _OTHER for block in shown]
    places = range(len(shown))
    axes.barh(places, values, color=colours, height=0.78)
    axes.set_yticks(places, list(shown), fontsize=8.5)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.margins(y=0.01)
    axes.set_xlim(0, max(values, default=1) * 1.12 or 1)
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, f" {value:.1%}", va="center", fontsize=8, color="#333333")
    rest = len(shares) - len(shown)
    more = f"; {rest} more hold {1 - sum(values):.1%}" if rest else ""
    axes.set_title(f"Share of ‖ΔW‖²{more}")


def _together(axes: Axes, shares: Mapping[str, float], chosen: Sequence[str], threshold: float) -> None:
    ordered = np.array(sorted(shares.values(), reverse=True))
    curve = np.concatenate([[0.0], np.cumsum(ordered)])
    count = len(chosen)
    axes.fill_between(np.arange(count + 1), curve[: count + 1], color=_CHOSEN, alpha=0.15, linewidth=0)
    axes.plot(curve, color=GREY, marker="o", markersize=2.5 if len(curve) < 80 else 0)
    axes.plot(np.arange(count + 1), curve[: count + 1], color=_CHOSEN, marker="o", markersize=3.5)
    axes.axhline(threshold, color=COLOURS[4], linestyle="--", linewidth=1)
    axes.annotate(
        f"{threshold:.0%}", (1, threshold), xycoords=("axes fraction", "data"), xytext=(-2, 3),
        textcoords="offset points", ha="right", fontsize=9, color=COLOURS[4],
    )  # fmt: skip
    axes.set_title(f"Held together by the first blocks: {count} reach the threshold")
    axes.set_xlabel("blocks, the greatest first")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, len(ordered))
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def _profile(axes: Axes, modules: Sequence[ModuleSpectrum], total: float, chosen: Sequence[str]) -> None:
    """Places are finer than blocks; the colour is that of the block."""
    places = places_of([module.module for module in modules])
    squares: dict[str, float] = defaultdict(float)
    for place, module in zip(places, modules, strict=True):
        squares[place] += module.frobenius_norm**2
    blocks = {place: module.block for place, module in zip(places, modules, strict=True)}
    axes.bar(
        range(len(squares)),
        [square / total if total else 0.0 for square in squares.values()],
        color=[_CHOSEN if blocks[place] in chosen else _OTHER for place in squares],
        width=0.85,
    )
    axes.set_title("By place in the model")
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.6, len(squares) - 0.4)
    axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    mark_places(axes, list(squares), room=75)


def _percent(share: float, _: object) -> str:
    return f"{100 * share:.3g}%"
