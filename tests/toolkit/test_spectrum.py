"""`spectrum`: singular values of ΔW, as numpy finds them in ΔW itself (SPEC section 7)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lorakit
from loracore.adapter import read_adapter
from loracore.errors import FileError, UsageError
from tests.builders.architectures import sd15
from tests.toolkit.loras import naive, trained


@pytest.fixture
def lora(tmp_path: Path) -> bytes:
    return trained(tmp_path / "a.safetensors", sd15(4, width=8, every=9))


def test_singular_values_are_those_of_delta(lora: bytes) -> None:
    """And what follows from them: norms, ranks, the least rank for a share of the energy."""
    found = lorakit.spectrum(lora)
    with read_adapter(lora.decode()) as adapter:
        keys = {module.name: module.key for module in adapter.modules}
    assert found["family"] == "sd15"
    assert len(found["modules"]) == len(keys)
    deltas = naive(lora)
    for module in found["modules"]:
        delta = deltas[keys[module["module"]]][0]
        values = np.linalg.svd(delta, compute_uv=False)[:4]
        assert module["singular_values"] == pytest.approx(values, rel=1e-6, abs=1e-7 * values[0])
        assert module["shape"] == list(delta.shape)
        assert module["frobenius_norm"] == pytest.approx(np.linalg.norm(delta))
        assert module["spectral_norm"] == module["singular_values"][0]
        assert module["nuclear_norm"] == pytest.approx(values.sum())
        held = np.cumsum(values**2) / (values**2).sum()
        for share in (90, 95, 99):
            assert module[f"rank_{share}"] == np.flatnonzero(held >= share / 100)[0] + 1


def test_what_cannot_be_done_is_named(lora: bytes) -> None:
    """A limit, bad numbers, no file."""
    layers = load_file(lora.decode())
    up = next(name for name in layers if name.endswith("lora_up.weight"))
    layers[up][:] = np.inf
    save_file(layers, lora.decode())
    found = lorakit.spectrum(lora)
    assert len(found["faults"]) == 1
    assert "Inf" in found["faults"][0]["reason"]
    limited = lorakit.spectrum(lora, svd_limit=3)
    assert not limited["modules"]
    assert all("limit" in fault["reason"] or "Inf" in fault["reason"] for fault in limited["faults"])
    with pytest.raises(UsageError):
        lorakit.spectrum(lora, svd_limit=0)
    with pytest.raises(FileError, match="nothing"):
        lorakit.spectrum("nothing.safetensors")
