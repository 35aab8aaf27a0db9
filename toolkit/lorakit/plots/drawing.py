"""What the pictures share: style, colours, titles, and the order of a file's places."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from loracore.jobs.plot import Format
from loracore.jobs.results import Fault
from loracore.paths import shown

#: Okabe and Ito's colours, which differ for all kinds of colour vision (jfly.uni-koeln.de/color).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
GREY = "#767676"
#: A map whose lightness grows all along, and that is the same for colour-blind people.
MAP = "cividis"
_DPI = 130
#: Places that have a number where all are of one kind.
_NUMBERS = 40
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "lorad",
    "svg.fonttype": "none",
}
#: What begins a block in the names of all architectures, with its number.
_PLACE = re.compile(r"(.*(?:blocks|layers|block|layer|h|attentions|resnets|downsamplers|upsamplers)\.\d+)\.(.+)")
_COMPONENTS = {"te1": "text encoder", "te2": "text encoder 2", "te3": "text encoder 3", "unet": "UNet",
               "transformer": "transformer", "llm": "language model"}  # fmt: skip


class Drawn(NamedTuple):
    """A picture, what was left out of it, and what else is to be known."""

    figure: Figure
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]


@contextmanager
def style() -> Iterator[None]:
    """Nothing of the caller's settings shows, and none of ours stays."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(cast("Any", _STYLE))
        yield


def rendered(figure: Figure, form: Format) -> bytes:
    """The file's bytes; the same for the same picture."""
    data = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    figure.savefig(data, format=form, dpi=_DPI, metadata=metadata)
    return data.getvalue()


def begin(paths: bytes | Sequence[bytes], facts: Sequence[str], size: tuple[float, float]) -> Figure:
    """A figure titled with the file's name and the numbers that matter.

    A figure of its own, not pyplot's: it needs no display, and nothing keeps it.
    """
    listed = [paths] if isinstance(paths, bytes) else list(paths)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.suptitle(
        "\n".join(["   and   ".join(name_of(path, 160 // len(listed) - 7) for path in listed), *_lines(facts)]),
        x=0.012, ha="left", fontsize=12, linespacing=1.5,
    )  # fmt: skip
    return figure


def _lines(facts: Sequence[str], longest: int = 165) -> list[str]:
    """Facts in as few lines as they fit into."""
    lines: list[str] = []
    for fact in filter(None, facts):
        if lines and len(lines[-1]) + len(fact) + 5 <= longest:
            lines[-1] += f"  ·  {fact}"
        else:
            lines.append(fact)
    return [line.replace("$", r"\$") for line in lines]


def name_of(path: bytes, longest: int = 80) -> str:
    """The file's name, fit for a title: nothing in it is taken for mathematics."""
    name = shown(os.path.basename(path.rstrip(b"/"))).replace("$", r"\$")
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def component(name: str) -> str:
    return _COMPONENTS.get(name, name)


def colour_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each, in order."""
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(dict.fromkeys(names))}


def place_and_kind(name: str) -> tuple[str, str]:
    """Where a module is, and which of the modules there: `("single_blocks.3", "linear1")`."""
    match = _PLACE.fullmatch(name)
    return (match[1], match[2]) if match else ("", name)


def places_of(names: Sequence[str]) -> list[str]:
    """Where each module is. What stands before several blocks (`proj_in`) counts to the first of them."""
    places = [place_and_kind(name)[0] for name in names]
    known = list(dict.fromkeys(places))
    first = {
        place: next((other for other in known if other.startswith(f"{place}.")), place) if place else ""
        for place in known
    }
    return [first[place] for place in places]


def kinds_and_places(names: Sequence[str]) -> tuple[list[str], list[str], list[tuple[int, int]]]:
    """Rows and columns of a map of modules, and the row and column of each."""
    places = places_of(names)
    # Modules that stand alone, at no place, are a column together.
    kinds = [place_and_kind(name)[1] for name in names]
    rows, columns = list(dict.fromkeys(kinds)), list(dict.fromkeys(places))
    row = {kind: index for index, kind in enumerate(rows)}
    column = {place: index for index, place in enumerate(columns)}
    return rows, columns, [(row[kind], column[place]) for kind, place in zip(kinds, places, strict=True)]


def plain_logarithmic(axis: Axis) -> None:
    """Ticks of a logarithmic axis as numbers, 1, 2 and 5 of each decade where there are few of them."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def from_zero(axes: Axes, *, above: float = 0.06) -> None:
    """From 0 to more than the greatest value, so that no point is cut at the edge."""
    axes.set_ylim(0, axes.get_ylim()[1] * (1 + above))


def mark_places(axes: Axes, places: Sequence[str], *, room: int = 165) -> None:
    """Ticks that name runs of places with the same parent, as many as there is room for (in characters)."""
    runs = _runs([_parent(place) for place in places])
    if len(runs) == 1:
        step = -(-len(places) // _NUMBERS)
        axes.set_xticks(range(0, len(places), step), [place.rpartition(".")[2] for place in places[::step]])
        return
    ticks, names, end = [], [], -np.inf
    for parent, first, behind in runs:
        label = _range(parent, [places[index] for index in range(first, behind)])
        middle = (first + behind - 1) / 2
        half = (len(label) + 1) / room * len(places) / 2
        if middle - half >= end:
            ticks.append(middle)
            names.append(label)
            end = middle + half
    axes.set_xticks(ticks, names, fontsize=9)
    for _, first, _ in runs[1:]:
        axes.axvline(first - 0.5, color="#9A9A9A", linewidth=0.6)


def _runs(labels: Sequence[str]) -> list[tuple[str, int, int]]:
    """Runs of the same label: label, first and one behind the last."""
    found: list[tuple[str, int, int]] = []
    for index, label in enumerate(labels):
        if found and found[-1][0] == label:
            found[-1] = (label, found[-1][1], index + 1)
        else:
            found.append((label, index, index + 1))
    return found


def _parent(place: str) -> str:
    return place.rpartition(".")[0] if place.rpartition(".")[2].isdigit() else place


def _range(parent: str, places: Sequence[str]) -> str:
    """`down 1.0`, `single 0–37`, `text encoder 0–11`."""
    if not parent:
        return "others"
    head = parent.split(".", maxsplit=1)[0]
    numbers = [place.rpartition(".")[2] for place in places]
    span = f" {numbers[0]}–{numbers[-1]}" if numbers[0] != numbers[-1] else f" {numbers[0]}"
    if head in _COMPONENTS:
        return component(head) + span
    text = re.sub(r"\.(attentions|transformer_blocks)(?=\.|$)", "", parent)
    text = re.sub(r"_?blocks?(?=\.|$)", "", text).replace("model.layers", "layers").strip(".")
    text = text.replace(".", " ", 1) or "block"
    return text if any(char.isdigit() for char in text) or text == "mid" else text + span
