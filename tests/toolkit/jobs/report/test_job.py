"""`report`: the numbers are those of the files, pictures are drawn, and a folder that is none is refused."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from safetensors.numpy import save_file

import lorakit
from loracore.errors import FileError
from loracore.jobs.job import Alone
from loracore.jobs.report import ReportParameters
from lorakit.jobs.report.job import JOB
from tests.builders import models


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """Six matrices of two blocks: one with a LoRA, four that changed freely, one that did not; and a bias."""
    rng = np.random.default_rng(4)
    shapes = {
        f"model.layers.{index}.mlp.{name}.weight": (160, 128)
        for index in (0, 1)
        for name in ("up_proj", "gate_proj", "down_proj")
    }
    base = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    base["model.layers.0.mlp.up_proj.bias"] = np.ones(160, np.float32)
    tuned = {
        name: layer + 0.01 * rng.standard_normal(layer.shape).astype(np.float32) for name, layer in base.items()
    }
    first, *_, last = shapes
    tuned[first] = base[first] + (rng.standard_normal((160, 3)) @ rng.standard_normal((3, 128))).astype(np.float32)
    tuned[last] = base[last]
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "tuned.safetensors")
    lorakit.compare(tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "out", lora_rank=8)
    return tmp_path / "out"


def test_the_numbers_are_those_of_the_files(compared: Path) -> None:
    found = lorakit.report(compared)
    written = json.loads((compared / "weight_differences.json").read_text())
    assert [row["layer"] for row in found["layers"]][: len(written["modified_layers"])] == written[
        "modified_layers"
    ]
    for row in found["layers"]:
        assert row["relative_diff"] == written["all_differences"][row["layer"]]["relative_diff"]
    assert (found["totals"]["layers compared"], found["totals"]["layers modified"]) == (7, 6)
    kinds = {row["kind"]: (row["layers"], row["modified"]) for row in found["kinds"]}
    assert kinds == {"linear": (6, 5), "bias": (1, 1)}
    blocks = {row["block"]: row["layers"] for row in found["blocks"]}
    assert blocks == {"model.layers.0": 4, "model.layers.1": 3}
    like = [row["layer"] for row in found["lora"] if row["looks_like"] == "LoRA"]
    assert like == ["model.layers.0.mlp.up_proj.weight"]
    assert len(found["factors"]) == 5
    assert (found["base"], found["warnings"]) == (str(compared.parent / "base.safetensors"), [])


@pytest.mark.parametrize("form", ["png", "svg"])
def test_pictures_are_drawn(compared: Path, form: str) -> None:
    """One of all, or one of each thing there is to see; not blank."""
    found = JOB.run(ReportParameters(os.fsencode(compared), form, overview=False), Alone())  # type: ignore[arg-type]
    assert [one.name for one in found.pictures] == ["map", "most-modified", "ranks", "extraction"]
    whole = JOB.run(ReportParameters(os.fsencode(compared), form, overview=True), Alone())  # type: ignore[arg-type]
    assert len(whole.pictures) == 1
    for one in (*found.pictures, *whole.pictures):
        if form == "svg":
            assert b"</svg>" in one.image
        else:
            pixels = image.imread(io.BytesIO(one.image))
            assert len(np.unique(pixels[::7, ::7, 0])) > 10


def test_an_extraction_alone_has_a_report(tmp_path: Path) -> None:
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file({name: 2 * layer for name, layer in models.matrices(base).items()}, tuned)
    lorakit.extract(base, tuned, tmp_path / "out", rank=4)
    found = lorakit.report(tmp_path / "out")
    assert found["totals"]["extracted modules"] == 4
    assert found["layers"] == []
    drawn = JOB.run(ReportParameters(os.fsencode(tmp_path / "out"), "png"), Alone())
    assert [one.name for one in drawn.pictures] == ["extraction"]


def test_models_without_a_difference_have_pictures_too(tmp_path: Path) -> None:
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file(models.matrices(base), tuned)
    lorakit.compare(base, tuned, tmp_path / "out")
    drawn = JOB.run(ReportParameters(os.fsencode(tmp_path / "out"), "png", overview=True), Alone())
    assert len(drawn.pictures) == 1


def test_what_is_no_comparison_is_refused(compared: Path, tmp_path: Path) -> None:
    """A folder without one, no folder, and a file that something else wrote; in one line."""
    (tmp_path / "empty").mkdir()
    for folder, word in ((tmp_path / "empty", "no comparison"), (tmp_path / "missing", "no folder")):
        with pytest.raises(FileError, match=word):
            lorakit.report(folder)
    for text in ("", "{", '{"all_differences": 3}', "[" * 100_000):
        (compared / "weight_differences.json").write_text(text)
        with pytest.raises(FileError, match="not as `loractl compare` writes it") as error:
            lorakit.report(compared)
        assert "\n" not in str(error.value)
