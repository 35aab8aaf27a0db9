"""A LoRA with numbers that cannot be computed with is refused by name, in bounded time (SPEC section 11)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import lorakit
from loracore.errors import LoraError, causes
from tests.toolkit.change.files import NAMES, kohya

Layers = dict[str, NDArray[Any]]
_DOWN, _UP, _ALPHA = (f"{NAMES[1]}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha"))


def _nan(layers: Layers) -> None:
    layers[_DOWN][0, 0] = np.nan


def _infinite(layers: Layers) -> None:
    layers[_UP][1, 0] = -np.inf


def _largest(layers: Layers) -> None:
    for name in (_DOWN, _UP):
        layers[name][:] = np.finfo(layers[name].dtype).max


def _product_at_the_edge(layers: Layers) -> None:
    for name in (_DOWN, _UP):
        layers[name][:] = 0.5 * np.sqrt(np.float64(np.finfo(layers[name].dtype).max))


def _scale(layers: Layers) -> None:
    layers[_ALPHA] = np.array(np.finfo(layers[_ALPHA].dtype).max)


def _resize(options: dict[str, Any]) -> Callable[[Path, Path, Path], object]:
    return lambda bad, good, output: lorakit.resize(bad, output, **options)


def _merge(options: dict[str, Any]) -> Callable[[Path, Path, Path], object]:
    return lambda bad, good, output: lorakit.merge([good, bad], output, **options)


_JOBS = {
    **{f"resize {key}": _resize({key: value}) for key, value in
       {"rank": 2, "sv_fro": 0.9, "sv_cumulative": 0.9, "sv_ratio": 2.0, "sv_knee": True, "prune": 0.9}.items()},
    **{f"merge {method}": _merge({"method": method, "rank": 2})
       for method in ("linear", "svd", "pca", "ties", "dare_ties", "dare_linear", "knots")},
    "merge exactly": _merge({}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spoil", [_nan, _infinite, _largest, _product_at_the_edge, _scale])
@pytest.mark.parametrize("job", _JOBS)
def test_what_cannot_be_computed_with_is_refused_by_name(
    tmp_path: Path, job: str, spoil: Callable[[Layers], None], dtype: Any
) -> None:
    """In one line with the file and the reason, and nothing is written; LAPACK is not asked."""
    good, bad = kohya(tmp_path / "good.safetensors", 1), kohya(tmp_path / "bad.safetensors", dtype=dtype)
    layers = load_file(bad)
    spoil(layers)
    save_file(layers, bad)
    with pytest.raises(LoraError) as refused:
        _JOBS[job](bad, good, tmp_path / "out.safetensors")
    text = str(refused.value)
    assert text.count("\n") == 0
    assert str(bad) in text
    assert NAMES[1] in text or "down_blocks.0" in text
    assert not (tmp_path / "out.safetensors").exists()
    assert len(list(causes(refused.value))) < 10


@pytest.mark.parametrize("spoil", [_nan, _infinite, _largest, _product_at_the_edge, _scale])
@pytest.mark.parametrize("look", [lorakit.importance, lorakit.spectrum, lorakit.pca])
def test_what_cannot_be_computed_with_is_left_out_by_name(
    tmp_path: Path, look: Callable[[Path], Any], spoil: Callable[[Layers], None]
) -> None:
    """The other modules are analysed."""
    file = kohya(tmp_path / "bad.safetensors", dtype=np.float64)
    layers = load_file(file)
    spoil(layers)
    save_file(layers, file)
    found = look(file)
    assert len(found["faults"] if isinstance(found, dict) else found.faults) >= (look is not lorakit.pca)


def test_a_chain_of_causes_that_leads_back_ends() -> None:
    """Each is there once."""
    first, second = ValueError("one"), ValueError("two")
    first.__cause__, second.__cause__ = second, first
    assert list(causes(first)) == [first, second]
