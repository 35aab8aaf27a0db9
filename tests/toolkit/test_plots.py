"""`plot`: a picture of every kind, of files of every kind; the same bytes for the same file (SPEC section 7)."""

from __future__ import annotations

import io
import re
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from safetensors.numpy import load_file, save_file

import lorakit
from loracore.errors import FileError, MissingPackage, UsageError
from loracore.jobs.job import Alone
from loracore.jobs.plot import KINDS, Kind, PlotParameters
from lorakit.plots.drawing import style
from lorakit.plots.job import JOB
from tests.builders import real
from tests.builders.architectures import Architecture, flux, llm, sd15, sdxl
from tests.toolkit.loras import trained

ONE_FILE = tuple(kind for kind in KINDS if kind != "comparison")


def drawn(kind: Kind, *paths: bytes, form: str = "svg") -> bytes:
    return JOB.run(PlotParameters(kind, paths, form), Alone(2)).image  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ONE_FILE)
@pytest.mark.parametrize("architecture", [sd15, sdxl, flux, llm])
def test_every_kind_of_every_architecture_is_titled_with_its_file(
    tmp_path: Path, kind: Kind, architecture: Architecture
) -> None:
    """With all modules, of tiny width; text is text in SVG, so it can be read here."""
    path = trained(tmp_path / "my $file_é.safetensors", architecture(2, width=64))
    image = drawn(kind, path).decode()
    assert image.startswith("<?xml")
    text = re.sub(r"<[^>]+>", " ", image)
    assert "my $file_é.safetensors" in text
    assert "modules" in text or "layers" in text


def test_comparison_tells_how_alike_files_are(tmp_path: Path) -> None:
    """A file and its double: cosine 1. Another one: near 0. One of another base: nothing in common."""
    first = trained(tmp_path / "a.safetensors", sd15(4, width=8, every=9))
    other = trained(tmp_path / "b.safetensors", sd15(4, width=8, every=9), seed=1)
    foreign = trained(tmp_path / "c.safetensors", flux(4, width=64, every=30))
    layers = load_file(first.decode())
    save_file(
        {name: values * 2 if "lora_up" in name else values for name, values in layers.items()},
        tmp_path / "double.safetensors",
    )
    text = drawn("comparison", first, str(tmp_path / "double.safetensors").encode(), other).decode()
    assert "cosine 1.000 over" in text
    assert re.search(r"1·3: cosine -?0\.[01]", text)
    assert "no modules in common" in drawn("comparison", first, foreign).decode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", [sdxl, flux])
def test_a_big_models_picture_is_legible(tmp_path: Path, kind: Kind, architecture: Architecture) -> None:
    """With 700 modules, no two numbers or names along an axis run into each other, and no point is cut in half."""
    path = trained(tmp_path / "a.safetensors", architecture(4, width=64))
    module = import_module(f"lorakit.plots.{kind}")
    with style():
        figure = module.draw(PlotParameters(kind, (path,) * (2 if kind == "comparison" else 1)), Alone(2)).figure
        figure.savefig(io.BytesIO(), format="png", dpi=130)
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                labels = [label for label in axis.get_ticklabels() if label.get_text() and label.get_visible()]
                boxes = [label.get_window_extent() for label in labels]
                inside = [box for box in boxes if axes.bbox.padded(5).overlaps(box.padded(5))]
                for one, other in pairwise(sorted(inside, key=lambda box: (box.x0, box.y0))):
                    assert not one.overlaps(other), [label.get_text() for label in labels]
            for points in axes.collections:
                if isinstance(points, PathCollection):
                    low, high = axes.get_ylim()
                    heights = np.asarray(points.get_offsets())[:, 1]
                    assert low <= heights.min()
                    assert heights.max() < low + 0.985 * (high - low)


def test_the_same_file_gives_the_same_picture(tmp_path: Path) -> None:
    path = trained(tmp_path / "a.safetensors", sd15(2, width=16, every=9))
    for form in ("svg", "png"):
        assert drawn("heatmap", path, form=form) == drawn("heatmap", path, form=form)
    assert drawn("rank", path, form="png").startswith(b"\x89PNG")


def test_files_with_faults_and_odd_algorithms_are_drawn(tmp_path: Path) -> None:
    """Zeros, NaN, modules without a rank, a file of one module."""
    path = trained(tmp_path / "a.safetensors", sd15(2, width=16, every=9))
    layers = load_file(path.decode())
    ups = [name for name in layers if "lora_up" in name]
    layers[ups[0]][:] = 0
    layers[ups[1]][:] = np.nan
    save_file(layers, path.decode())
    (tmp_path / "z").mkdir()
    zero = tmp_path / "z" / "zero.safetensors"
    save_file({name: np.zeros_like(values) if "up" in name else values for name, values in layers.items()}, zero)
    one = trained(tmp_path / "one.safetensors", sd15(2, width=16, every=500))
    lycoris = [found.encode() for found in real.by_lycoris(str(tmp_path))]
    for kind in ONE_FILE:
        for file in (path, str(zero).encode(), one, *lycoris):
            assert drawn(kind, file, form="png")
    assert len(JOB.run(PlotParameters("heatmap", (path,)), Alone()).faults) == 1
    assert drawn("comparison", path, str(zero).encode(), form="png")


def test_the_suffix_says_the_format(tmp_path: Path) -> None:
    path = trained(tmp_path / "a.safetensors", sd15(2, width=16, every=30))
    lorakit.plot("heatmap", path, tmp_path / "a.png")
    lorakit.plot("heatmap", [path], str(tmp_path / "a.SVG"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.SVG").read_text().startswith("<?xml")
    with pytest.raises(UsageError, match=r"a\.gif.*\.png"):
        lorakit.plot("heatmap", path, tmp_path / "a.gif")


def test_wrong_wishes_are_refused_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained(tmp_path / "a.safetensors", sd15(2, width=16, every=30))
    for kind, paths in (
        ("heatmap", [path, path]),
        ("comparison", [path]),
        ("comparison", [path] * 7),
        ("cake", [path]),
    ):
        with pytest.raises(UsageError, match=kind):
            lorakit.plot(kind, paths, tmp_path / "x.png")  # type: ignore[arg-type]
    with pytest.raises(FileError):
        lorakit.plot("rank", tmp_path / "missing.safetensors", tmp_path / "x.png")
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "lorakit.plots."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackage, match=r"lorad\[toolkit\]"):
        lorakit.plot("rank", path, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
