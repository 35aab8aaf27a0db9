"""Corners of a module: biases alone, odd alphas, bases that do not fit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from loracore.adapter import NeedsBase
from loracore.errors import MalformedFile
from tests.shared.adapter.measures import apart, by_key, randn, read


def test_a_difference_of_the_bias_alone_is_a_module_of_its_own(tmp_path: Path) -> None:
    """`diff_b` without weight, as Wan's LoRAs have it: its ΔW is the bias's, under the bias's name."""
    tensors = {"diffusion_model.blocks.0.self_attn.norm_q.diff_b": randn(6)}
    (module,) = read(os.fspath(tmp_path / "x.safetensors"), tensors).modules
    assert (module.name, module.block, module.shape) == ("blocks.0.self_attn.norm_q.bias", "blocks.0", (6,))
    assert apart(module.delta(), tensors["diffusion_model.blocks.0.self_attn.norm_q.diff_b"]) == 0
    assert module.bias_delta() is None


def test_a_base_of_another_shape_is_refused(tmp_path: Path) -> None:
    """The error names the module and both shapes; kernels may be flat on either side."""
    tensors = {"x.lora_down.weight": randn(2, 6, 3, 3), "x.lora_up.weight": randn(5, 2, 1, 1)}
    (module,) = read(os.fspath(tmp_path / "x.safetensors"), tensors).modules
    with pytest.raises(MalformedFile, match=r"'x' is made for a weight of \[5, 6, 3, 3\], not of \[5, 6\]"):
        module.applied(np.zeros((5, 6)))
    flat = module.applied(np.zeros((5, 54)))
    assert apart(flat.reshape(5, 6, 3, 3), module.delta(np.float64)) < 1e-14


def test_strength_multiplies_delta(tmp_path: Path) -> None:
    """`applied` with a strength adds so much of ΔW; a half-precision base is computed in float32."""
    tensors = {"x.lora_down.weight": randn(2, 6), "x.lora_up.weight": randn(5, 2), "x.alpha": torch.tensor(3.0)}
    (module,) = read(os.fspath(tmp_path / "x.safetensors"), tensors).modules
    base = randn(5, 6, seed=3).numpy()
    assert apart(module.applied(base, 0.25) - base, 0.25 * module.delta()) < 1e-6
    assert module.applied(base.astype(np.float16)).dtype == np.float32
    assert module.applied(base.astype(np.float64)).dtype == np.float64


def test_an_alpha_of_several_numbers_counts_as_none(tmp_path: Path) -> None:
    """It is reported, and the scale is 1."""
    tensors = {"x.lora_down.weight": randn(2, 6), "x.lora_up.weight": randn(5, 2), "x.alpha": randn(4)}
    adapter = read(os.fspath(tmp_path / "x.safetensors"), tensors)
    assert adapter.modules[0].scale == 1
    assert "alpha has shape [4]" in adapter.problems[0].text


def test_what_comfyui_keeps_beside_is_no_problem(tmp_path: Path) -> None:
    """`reshape_weight` belongs to its module; `set_weight` is a whole weight, which needs the base."""
    tensors = {
        "diffusion_model.img_in.lora_down.weight": randn(2, 6),
        "diffusion_model.img_in.lora_up.weight": randn(5, 2),
        "diffusion_model.img_in.reshape_weight": torch.tensor([5, 6]),
        "diffusion_model.double_blocks.0.img_attn.norm.query_norm.set_weight": randn(8),
    }
    adapter = read(os.fspath(tmp_path / "x.safetensors"), tensors)
    assert not adapter.problems
    whole = by_key(adapter)["diffusion_model.double_blocks.0.img_attn.norm.query_norm"]
    with pytest.raises(NeedsBase, match=r"x\.safetensors: module 'double_blocks\.0\.img_attn"):
        whole.delta()
    np.testing.assert_allclose(whole.applied(np.ones(8)), whole.tensor("weight"), rtol=1e-6)


@pytest.mark.parametrize(
    ("stem", "block"),
    [
        ("lora_unet_blocks_7_cross_attn_k_img", "blocks.7"),
        ("lora_unet_blocks_7_ffn_0", "blocks.7"),
        ("lora_te3_encoder_block_11_layer_0_SelfAttention_q", "te3.layers.11"),
        ("lora_te_text_model_encoder_layers_2_mlp_fc1", "te1.layers.2"),
        ("lora_prior_unet_down_blocks_0_3_attention_attn_to_q", "lora_prior_unet_down_blocks_0"),
        ("lora_transformer_single_transformer_blocks_3_proj_mlp", "single_blocks.3"),
        ("lycoris_model_layers_3_self_attn_q_proj", "layers.3"),
    ],
)
def test_prefixes_and_blocks(stem: str, block: str, tmp_path: Path) -> None:
    """Every prefix of the field leads to a component and a block; unknown names keep their stem."""
    tensors = {f"{stem}.lora_down.weight": randn(2, 6), f"{stem}.lora_up.weight": randn(5, 2)}
    (module,) = read(os.fspath(tmp_path / "x.safetensors"), tensors).modules
    assert module.block == block
