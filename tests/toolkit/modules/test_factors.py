"""Every algorithm's ΔW as a product of factors, and its singular values, as a dense SVD finds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import lorakit
from loracore.adapter import read_adapter
from loracore.errors import UsageError
from lorakit.modules.factors import decomposed, energy, factors, greatest_rank
from tests.toolkit.change.files import cut, deltas

#: Roles and shapes by LyCORIS: kernels, Tucker cores, parts that are whole and parts that are products.
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "loha": {"hada_w1_a": (30, 3), "hada_w1_b": (3, 20), "hada_w2_a": (30, 3), "hada_w2_b": (3, 20)},
    "loha, more rank than room": {
        "hada_w1_a": (12, 5), "hada_w1_b": (5, 20), "hada_w2_a": (12, 5), "hada_w2_b": (5, 20),
    },
    "loha, Tucker": {
        "hada_t1": (3, 2, 3, 3), "hada_w1_a": (3, 30), "hada_w1_b": (2, 4),
        "hada_t2": (3, 2, 3, 3), "hada_w2_a": (3, 30), "hada_w2_b": (2, 4),
    },
    "lokr": {"lokr_w1": (4, 3), "lokr_w2_a": (9, 2), "lokr_w2_b": (2, 11)},
    "lokr, both products": {
        "lokr_w1_a": (4, 2), "lokr_w1_b": (2, 3), "lokr_w2_a": (9, 2), "lokr_w2_b": (2, 11),
    },
    "lokr, both whole": {"lokr_w1": (4, 3), "lokr_w2": (9, 11)},
    "lokr, kernel": {"lokr_w1": (4, 3), "lokr_w2": (9, 5, 3, 3)},
    "lokr, Tucker": {"lokr_w1": (4, 3), "lokr_t2": (2, 3, 3, 3), "lokr_w2_a": (2, 9), "lokr_w2_b": (3, 5)},
    "lora": {"lora_up.weight": (30, 6), "lora_down.weight": (6, 20)},
    "lora, more rank than room": {"lora_up.weight": (8, 12), "lora_down.weight": (12, 20)},
    "locon, Tucker": {
        "lora_up.weight": (30, 3, 1, 1), "lora_mid.weight": (3, 3, 3, 3), "lora_down.weight": (3, 5, 1, 1),
    },
}  # fmt: skip


@pytest.mark.parametrize("algorithm", SHAPES)
def test_factors_and_decomposition_are_those_of_delta(tmp_path: Path, algorithm: str) -> None:
    """And a resize to the greatest rank that it can have loses nothing; to more, it is refused."""
    rng = np.random.default_rng(0)
    layers = {f"lora_unet_x.{role}": rng.standard_normal(shape) for role, shape in SHAPES[algorithm].items()}
    layers["lora_unet_x.alpha"] = np.array(1.5)
    save_file({name: values.astype(np.float32) for name, values in layers.items()}, tmp_path / "x.safetensors")
    with read_adapter(str(tmp_path / "x.safetensors")) as adapter:
        (module,) = adapter.modules
        delta = module.delta(np.float64).reshape(module.shape[0], -1)
        product = factors(module)
        assert np.allclose(product.outer @ product.inner, delta)
        assert product.rank <= min(delta.shape) or algorithm.startswith("lora")
        found = decomposed(module)
        values = np.linalg.svd(delta, compute_uv=False)
        most = greatest_rank(module)
        assert np.allclose(found.values[:most], values[:most], atol=1e-7 * values[0])
        assert np.abs(values[most:]).max(initial=0) < 1e-9 * values[0]
        for rank in {1, 2, most}:
            up, down = found.truncated(rank)
            assert np.allclose(up @ down, cut(delta, rank), atol=1e-7 * values[0])
        assert energy(module) == pytest.approx(np.square(delta).sum())
    lorakit.resize(tmp_path / "x.safetensors", tmp_path / "out.safetensors", rank=most)
    (after,) = deltas(tmp_path / "out.safetensors").values()
    assert np.allclose(after, delta, atol=1e-5 * values[0])
    with pytest.raises(UsageError, match=f"more than {most}"):
        lorakit.resize(tmp_path / "x.safetensors", tmp_path / "more.safetensors", rank=most + 1)
