"""The algebra over another array module than numpy, and how a device is chosen."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import lorakit
from loracore.errors import LoraError
from lorakit.jobs.merge import job as merge
from lorakit.jobs.resize import job as resize
from lorakit.lowrank.device import array_module
from tests.toolkit.change import apart
from tests.toolkit.change.files import by_lycoris, deltas, distance, kohya


def test_the_cpu_needs_nothing() -> None:
    assert array_module("cpu") is np


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed here")
def test_without_cupy_auto_is_the_cpu_and_cuda_says_what_to_install(tmp_path: Path) -> None:
    assert array_module("auto") is np
    lora = kohya(tmp_path / "a.safetensors")
    with pytest.raises(LoraError, match=r"pip install 'lorad\[gpu\]'"):
        lorakit.resize(lora, tmp_path / "b.safetensors", rank=2, device="cuda")


def test_results_by_another_array_module_are_those_of_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays go there and come back where they must, and nowhere else."""
    lora = kohya(tmp_path / "a.safetensors")
    lokr = by_lycoris(tmp_path, "lokr")

    def made(name: str) -> list[Path]:
        outputs = [tmp_path / f"{name}-{number}.safetensors" for number in range(6)]
        lorakit.resize(lora, outputs[0], rank=2)
        lorakit.resize(lokr, outputs[1], rank=1)
        for output, method in zip(outputs[2:], ("svd", "pca", "knots", "dare_ties"), strict=True):
            lorakit.merge([lora, lora], output, rank=4, weights=(1, 0.3), method=method)
        return outputs

    here = made("here")
    for job in (merge, resize):
        monkeypatch.setattr(job, "array_module", lambda device: apart.MODULE)
    for one, other in zip(here, made("there"), strict=True):
        assert distance(deltas(one), deltas(other)) < 1e-6
