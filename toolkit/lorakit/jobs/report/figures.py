"""A finished comparison as pictures: where the change is, how much rank it has, what an extraction captures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from loracore.paths import shown
from lorakit.difference.pairs import stem
from lorakit.jobs.report.reading import Folder, Spectral
from lorakit.plots.drawing import COLOURS, GREY, MAP, begin, kinds_and_places, mark_places

_TOP = 20
#: Decades of the colour scale; what is smaller has its darkest end.
_DECADES = 2.5
#: Characters of a layer's name beside a bar.
_NAME = 46
_LORA, _FULL, _ROUNDING = COLOURS[0], COLOURS[4], "#BDBDBD"


def overview(folder: Folder, path: bytes) -> dict[str, Figure]:
    """All in one picture."""
    panels = [name for name, there in _panels(folder).items() if there]
    heights = [_height(folder, name) for name in panels]
    figure = _begin(folder, path, sum(heights))
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for one, name in zip(axes, panels, strict=True):
        _DRAW[name](folder, one)
    return {"report": figure}


def separate(folder: Folder, path: bytes) -> dict[str, Figure]:
    """A picture for each thing there is to see."""
    found = {}
    for name, there in _panels(folder).items():
        if there:
            figure = _begin(folder, path, _height(folder, name))
            _DRAW[name](folder, figure.subplots())
            found[name] = figure
    return found


def _begin(folder: Folder, path: bytes, height: float) -> Figure:
    figure = begin(path, _facts(folder), (14, height + 1.2))
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    # Long names beside bars keep a margin.
    engine.set(rect=(0.012, 0, 0.976, 1))
    return figure


def _panels(folder: Folder) -> dict[str, bool]:
    return {
        "map": bool(_modules(folder)),
        "most-modified": bool(folder.differences.all_differences),
        "ranks": bool(folder.analysis.layers),
        "extraction": bool(folder.extracted.layers),
    }


def _height(folder: Folder, name: str) -> float:
    if name == "map":
        kinds = kinds_and_places([stem(layer) for layer in _modules(folder)])[0]
        return 1.2 + 0.27 * len(kinds)
    if name == "most-modified":
        return 1.0 + 0.23 * max(3, min(_TOP, len(folder.differences.modified_layers)))
    return 3.4


def _facts(folder: Folder) -> list[str]:
    differences, analysis, extracted = folder.differences, folder.analysis, folder.extracted
    facts = []
    base = folder.architecture.base.path or extracted.base_model
    finetuned = folder.architecture.finetuned.path or extracted.finetuned_model
    if base:
        facts.append(f"{_short(base, 40)} and {_short(finetuned, 40)}")
    if differences.all_differences:
        facts.append(
            f"{len(differences.modified_layers):,} of {len(differences.all_differences):,} layers modified"
        )
    if analysis.layers:
        word = "looks" if analysis.looks_like_lora else "does not look"
        facts.append(f"{word} like a LoRA, suggested rank {analysis.suggested_rank}")
    if extracted.layers:
        facts.append(f"rank {extracted.rank} extracted, error {extracted.error:.2%}")
    return facts


def _modules(folder: Folder) -> list[str]:
    """Layers with a place in the map: weights of two dimensions or more."""
    return [
        name
        for name, one in folder.differences.all_differences.items()
        if len(one.shape) > 1 and name != stem(name)
    ]


def _map(folder: Folder, axes: Axes) -> None:
    names = _modules(folder)
    kinds, places, cells = kinds_and_places([stem(name) for name in names])
    values = np.full((len(kinds), len(places)), np.nan)
    for name, (row, column) in zip(names, cells, strict=True):
        values[row, column] = folder.differences.all_differences[name].relative_diff or 0.0
    known = values[np.isfinite(values) & (values > 0)]
    high = float(known.max()) if known.size else 1.0
    low = max(float(known.min()) if known.size else high / 10, high / 10**_DECADES)
    colours = LogNorm(min(low, high * 0.9), high)
    unchanged = np.where(values == 0, 0.0, np.nan)
    image = axes.imshow(
        np.where(values > 0, np.maximum(values, low), np.nan), aspect="auto", cmap=MAP, norm=colours,
        interpolation="nearest",
    )  # fmt: skip
    # What is there and did not change is grey; what is not there stays white.
    axes.imshow(unchanged, aspect="auto", cmap="Greys", vmin=-0.25, vmax=1, interpolation="nearest")
    axes.set_yticks(np.arange(len(kinds)), kinds, fontsize=8.5)
    axes.grid(visible=False)
    mark_places(axes, places)
    axes.set_title("Relative difference of each matrix, by kind and place (grey: unchanged)")
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.01)
    bar.set_ticks(list(np.geomspace(colours.vmin or low, high, 4)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    bar.ax.minorticks_off()


def _most_modified(folder: Folder, axes: Axes) -> None:
    names = folder.differences.modified_layers[:_TOP]
    values = [folder.differences.all_differences[name].relative_diff or 0.0 for name in names]
    colours = [_colour(folder.analysis.layers.get(name)) for name in names]
    axes.barh(range(len(names)), values, color=colours, height=0.76)
    axes.set_yticks(range(len(names)), [_short(name, _NAME) for name in names], fontsize=8.5)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, max(values, default=1.0) * 1.12 or 1.0)
    for place, value in enumerate(values):
        axes.text(value, place, f" {value:.3g}", va="center", fontsize=8, color="#333333")
    axes.set_title(
        f"The {len(names)} most modified layers: ‖fine-tuned - base‖ / ‖base‖" if names else "Nothing changed"
    )
    if folder.analysis.layers:
        _legend(axes, colours)


def _ranks(folder: Folder, axes: Axes) -> None:
    spectra = list(folder.analysis.layers.values())
    ranks = [int(rank) for rank in spectra[0].energies]
    for colour, name in ((_LORA, "looks like a LoRA"), (_FULL, "does not"), (_ROUNDING, "rounding alone")):
        of = [one for one in spectra if _colour(one) == colour]
        if of:
            table = np.array([[one.energies[str(rank)] for rank in ranks] for one in of])
            low, middle, high = np.percentile(table, (5, 50, 95), axis=0)
            axes.fill_between(ranks, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(ranks, middle, color=colour, marker="o", markersize=4, label=f"{name} ({len(of):,})")
    suggested = folder.analysis.suggested_rank
    if suggested:
        axes.axvline(suggested, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            f"suggested {suggested}", (suggested, 0.03), xycoords=("data", "axes fraction"),
            xytext=(4 if suggested < ranks[-1] else -4, 0), ha="left" if suggested < ranks[-1] else "right",
            textcoords="offset points", fontsize=9, color=GREY,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("rank")
    axes.set_title("Share of the difference that a rank holds: median, and 5 to 95 % of the matrices")
    axes.legend(loc="center right")


def _extraction(folder: Folder, axes: Axes) -> None:
    names = list(folder.extracted.layers)
    errors = [folder.extracted.layers[name].error for name in names]
    axes.scatter(range(len(names)), errors, s=14, color=_LORA, linewidth=0)
    axes.axhline(folder.extracted.error, color=GREY, linestyle="--", linewidth=1)
    axes.annotate(
        f"all {folder.extracted.error:.2%}", (1, folder.extracted.error), xycoords=("axes fraction", "data"),
        xytext=(-2, 3), textcoords="offset points", ha="right", fontsize=9, color=GREY,
    )  # fmt: skip
    axes.set_ylim(0, max(*errors, folder.extracted.error, 1e-9) * 1.15)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.3g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("module, in the model's order")
    axes.set_title(f"Error of each module at rank {folder.extracted.rank}: ‖X - BA‖ / ‖X‖")


_DRAW = {"map": _map, "most-modified": _most_modified, "ranks": _ranks, "extraction": _extraction}


def _colour(one: Spectral | None) -> str:
    if one is None or one.only_rounding:
        return _ROUNDING
    return _LORA if one.looks_like_lora else _FULL


def _legend(axes: Axes, colours: Sequence[str]) -> None:
    words = {_LORA: "looks like a LoRA", _FULL: "does not", _ROUNDING: "rounding alone, or not analysed"}
    handles = [
        axes.barh([0], [0], color=colour, label=word) for colour, word in words.items() if colour in colours
    ]
    axes.legend(handles=handles, loc="lower right")


def _short(name: str, longest: int = 60) -> str:
    """The end of a name, which tells more than its beginning; nothing in it is taken for mathematics."""
    text = shown(name)
    return (text if len(text) <= longest else f"…{text[1 - longest :]}").replace("$", r"\$")
