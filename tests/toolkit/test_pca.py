"""`pca`: equal to scikit-learn's to 1e-5 on every shape, signs included (SPEC section 7)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import lorakit
from loracore.errors import FileError, UsageError
from loracore.jobs.job import Alone
from loracore.jobs.pca import PcaParameters
from loracore.jobs.results import plain
from lorakit.jobs.pca import JOB
from lorakit.lowrank.principal import principal
from tests.builders.architectures import sd15
from tests.builders.weights import random_weights
from tests.builders.write import save_checkpoint
from tests.toolkit.loras import trained


def sklearns(samples: NDArray[np.float64], count: int) -> PCA:
    # Without any variance, it divides by 0.
    with np.errstate(invalid="ignore"):
        return PCA(min(count, *samples.shape), svd_solver="full").fit(StandardScaler().fit_transform(samples))


@pytest.mark.parametrize(
    "shape", [(320, 4), (4, 320), (64, 64), (2, 9), (9, 2), (1280, 32), (32, 1280), (100, 1), (30, 31), (31, 30)]
)
@pytest.mark.parametrize("kind", ["normal", "graded", "constant columns"])
def test_components_are_sklearns(shape: tuple[int, int], kind: str) -> None:
    """Wherever there is variance; without any, a direction is arbitrary, and orthogonal to the others."""
    rng = np.random.default_rng(5)
    samples = rng.standard_normal(shape)
    if kind == "graded":
        # Mixed, so that components differ in strength as those of a LoRA do.
        samples = samples @ np.diag(1 / np.arange(1, shape[1] + 1)) @ rng.standard_normal((shape[1], shape[1]))
    elif kind == "constant columns":
        samples[:, :: max(2, shape[1] // 3)] = 0.1
    theirs, ours = sklearns(samples, 10), principal(samples, 10)
    real = int(np.count_nonzero(theirs.singular_values_ > 1e-6 * (theirs.singular_values_[0] or 1)))
    assert ours.singular_values == pytest.approx(theirs.singular_values_, rel=1e-8, abs=1e-5)
    ratios = np.nan_to_num(theirs.explained_variance_ratio_)
    assert ours.explained_variance_ratio == pytest.approx(ratios, abs=1e-9)
    signs = np.ones(len(ours.components))
    if shape[1] == 2:
        # Both entries of a component are as great, so rounding decides on its sign.
        signs = np.sign((ours.components * theirs.components_).sum(axis=1))
    assert np.abs(ours.components.T * signs - theirs.components_.T)[:, :real].max(initial=0) < 1e-5
    transformed = theirs.transform(StandardScaler().fit_transform(samples))
    assert np.abs(ours.transformed * signs - transformed)[:, :real].max(initial=0) < 1e-5
    count = len(ours.components)
    assert np.abs(ours.components @ ours.components.T - np.eye(count)).max() < 1e-8
    variance = StandardScaler().fit_transform(samples).var(axis=0, ddof=1).sum()
    assert ours.total_variance == pytest.approx(variance)


def test_fields_are_those_that_are_promised(tmp_path: Path) -> None:
    """Every matrix of the file is a layer, convolutions flat; alphas are none."""
    path = trained(tmp_path / "a.safetensors", sd15(4, width=8, every=9))
    layers = {name: values for name, values in load_file(path.decode()).items() if values.ndim > 1}
    found = lorakit.pca(path, 3)
    assert found["success"] is True
    assert (found["n_components"], found["total_layers"]) == (3, len(layers))
    assert found["pca_results"].keys() == layers.keys()
    for name, layer in found["pca_results"].items():
        samples = layers[name].astype(np.float64).reshape(len(layers[name]), -1)
        theirs = sklearns(samples, 3)
        assert set(layer) == {
            "explained_variance_ratio", "singular_values", "components", "transformed_data", "n_components",
            "total_variance", "cumulative_variance",
        }  # fmt: skip
        assert layer["n_components"] == 3
        assert np.abs(layer["components"] - theirs.components_).max() < 1e-5
        assert layer["transformed_data"].shape == (len(samples), 3)
        assert layer["cumulative_variance"] == pytest.approx(np.cumsum(layer["explained_variance_ratio"]))


def test_the_job_gives_the_same_with_and_without_vectors(tmp_path: Path) -> None:
    path = trained(tmp_path / "a.safetensors", sd15(4, width=8, every=19))
    api = lorakit.pca(path, 5)
    whole = plain(JOB.run(PcaParameters(path, 5), Alone(2)))
    without = JOB.run(PcaParameters(path, 5, vectors=False), Alone())
    for name, layer in api["pca_results"].items():
        told = whole["pca_results"][name]
        assert np.abs(np.array(told["components"]) - layer["components"]).max() < 1e-6
        assert np.array(told["transformed_data"]).shape == layer["transformed_data"].shape
        assert without.pca_results[name].components is None
        assert list(without.pca_results[name].singular_values) == told["singular_values"]


def test_layers_that_have_no_components_are_named(tmp_path: Path) -> None:
    """NaN, one row; the rest is analysed. A checkpoint is as good as safetensors."""
    layers = {
        "good.lora_down.weight": np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32),
        "nan.lora_down.weight": np.full((4, 9), np.nan, np.float32),
        "row.lora_down.weight": np.ones((1, 9), np.float32),
        "good.alpha": np.array(1, np.float32),
    }
    save_file(layers, tmp_path / "a.safetensors")
    found = lorakit.pca(tmp_path / "a.safetensors", 2)
    assert list(found["pca_results"]) == ["good.lora_down.weight"]
    assert found["faults"] == {
        "nan.lora_down.weight": "it holds 36 NaN",
        "row.lora_down.weight": "one row has no components",
    }
    path = save_checkpoint(str(tmp_path / "a.pt"), random_weights(sd15(4, width=16, every=30), 1))
    assert lorakit.pca(path, 2)["success"]


def test_wrong_wishes_are_refused(tmp_path: Path) -> None:
    save_file({"alpha": np.ones(3, np.float32)}, tmp_path / "vectors.safetensors")
    with pytest.raises(FileError, match=r"vectors\.safetensors"):
        lorakit.pca(tmp_path / "vectors.safetensors")
    with pytest.raises(UsageError):
        lorakit.pca(tmp_path / "vectors.safetensors", 0)
    with pytest.raises(FileError):
        lorakit.pca(os.fspath(tmp_path / "missing.safetensors"))
