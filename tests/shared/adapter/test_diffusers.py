"""ΔW under diffusers' and kohya's names, against what diffusers fuses into a model."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from diffusers.loaders.lora_pipeline import (
    FluxLoraLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn

from loracore.adapter import Adapter, read_adapter
from tests.shared.adapter.measures import apart, randn, read

RANK, ALPHA = 4, 3.0


def unet(levels: int = 4) -> UNet2DConditionModel:
    """A small UNet with the module names of SD1.5 (four levels) or SDXL (three)."""
    torch.manual_seed(0)
    down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    if levels == 3:
        down, up = (down[3], down[0], down[0]), (up[1], up[1], up[0])
    return UNet2DConditionModel(
        block_out_channels=(8, 16, 16, 16)[:levels],
        down_block_types=down,
        up_block_types=up,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=12,
        use_linear_projection=levels == 3,
        transformer_layers_per_block=1 if levels == 4 else 2,
    )


def adapted(model: nn.Module, convolutions: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers of the attention blocks, and the convolutions of the residual ones."""
    for name, part in model.named_modules():
        if (
            isinstance(part, nn.Linear) and ("attentions" in name or "blocks" in name) and "time_emb" not in name
        ) or (isinstance(part, nn.Conv2d) and ".resnets." in name and "shortcut" not in name and convolutions):
            yield name, part


def factors(part: nn.Module, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    out, inputs, *kernel = part.weight.shape
    ones = [1] * len(kernel)
    return randn(RANK, inputs, *kernel, seed=seed), randn(out, RANK, *ones, seed=seed + 1)


def kohya(model: nn.Module, rename: Any = lambda name: name) -> dict[str, torch.Tensor]:
    tensors = {}
    for seed, (name, part) in enumerate(adapted(model)):
        key = "lora_unet_" + rename(name).replace(".", "_")
        tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"] = factors(part, seed)
        tensors[f"{key}.alpha"] = torch.tensor(ALPHA)
    return tensors


def fused(model: Any, path: str, loader: Any, **options: Any) -> dict[str, torch.Tensor]:
    """What each weight gains when diffusers loads and fuses the file."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state, alphas, *_ = loader.lora_state_dict(
            os.path.dirname(path), weight_name=os.path.basename(path), **options
        )
        load = loader.load_lora_into_unet if hasattr(model, "mid_block") else loader.load_lora_into_transformer
        load(state, alphas, model)
        for part in model.modules():
            for factor in ("lora_A", "lora_B"):
                getattr(part, factor, nn.Identity()).double()
        model.fuse_lora()
        model.unload_lora()
    after = model.state_dict()
    return {
        name: after[name] - value for name, value in before.items() if not torch.equal(after[name].float(), value)
    }


def assert_equal(adapter: Adapter, gained: dict[str, torch.Tensor]) -> None:
    assert not adapter.problems
    assert {f"{module.name}.weight" for module in adapter.modules} == set(gained)
    for module in adapter.modules:
        expected = gained[f"{module.name}.weight"]
        assert module.shape == tuple(expected.shape)
        assert apart(module.delta(np.float64), expected) < 1e-6


def test_a_kohya_file_is_what_diffusers_fuses(tmp_path: Path) -> None:
    """SD1.5 under kohya's names: every module has the model's own name, and the ΔW that diffusers adds."""
    path = os.fspath(tmp_path / "kohya.safetensors")
    adapter = read(path, kohya(unet()))
    assert adapter.convention == "kohya"
    assert {module.scale for module in adapter.modules} == {ALPHA / RANK}
    assert_equal(adapter, fused(unet(), path, StableDiffusionLoraLoaderMixin))


def original(name: str) -> str:
    """The original SDXL name of a module of diffusers' UNet with three levels."""
    side, block, kind, layer, rest = re.match(  # type: ignore[union-attr]
        r"(down|mid|up)_block(?:s\.(\d))?\.(attentions|resnets)\.(\d)\.(.*)", name
    ).groups()
    rest = {"conv1": "in_layers.2", "conv2": "out_layers.3"}.get(rest, rest)
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(layer)}.{rest}"
    number = 3 * int(block) + int(layer) + (side == "down")
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{int(kind == 'attentions')}.{rest}"


def test_an_sdxl_file_of_kohya_is_what_diffusers_fuses(tmp_path: Path) -> None:
    """SDXL under the original names, which kohya keeps, becomes diffusers' names and weights."""
    model = unet(3)
    path = os.fspath(tmp_path / "sdxl.safetensors")
    adapter = read(path, kohya(model, original))
    assert adapter.family == "sdxl"
    gained = fused(unet(3), path, StableDiffusionXLLoraLoaderMixin, unet_config=model.config)
    assert_equal(adapter, gained)


@pytest.mark.parametrize("stated", [True, False])
def test_a_file_that_diffusers_saved_is_what_it_fuses(stated: bool, tmp_path: Path) -> None:
    """In diffusers' own file alpha comes from the configuration in its metadata, and else is the rank."""
    model = unet()
    config = LoraConfig(r=RANK, lora_alpha=7, target_modules=["to_q", "to_v"], init_lora_weights=False)
    model.add_adapter(config)
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        os.fspath(tmp_path),
        unet_lora_layers=get_peft_model_state_dict(model),
        unet_lora_adapter_metadata=config.to_dict() if stated else None,
    )
    path = os.fspath(tmp_path / "pytorch_lora_weights.safetensors")
    adapter = read_adapter(path)
    assert adapter.convention == "diffusers"
    assert {module.scale for module in adapter.modules} == ({7 / RANK} if stated else {1.0})
    gained = fused(unet(), path, StableDiffusionLoraLoaderMixin, return_lora_metadata=False)
    if not stated:
        assert_equal(adapter, gained)


def test_older_names_are_the_same_modules(tmp_path: Path) -> None:
    """Attention processors' names, `.lora.down` and `lora_A` name one module, with one ΔW."""
    model = unet()
    chosen = [(name, part) for name, part in adapted(model) if re.search(r"attn\d\.to_", name)]
    forms: dict[str, dict[str, torch.Tensor]] = {"processor": {}, "lora": {}, "new": {}, "linear": {}}
    for seed, (name, part) in enumerate(chosen):
        down, up = factors(part, seed)
        place, last = name.removesuffix(".0").rsplit(".", 1)
        for form, (one, other) in {
            "processor": (f"{place}.processor.{last}_lora.down", f"{place}.processor.{last}_lora.up"),
            "lora": (f"{name}.lora.down", f"{name}.lora.up"),
            "linear": (f"{name}.lora_linear_layer.down", f"{name}.lora_linear_layer.up"),
            "new": (f"{name}.lora_A", f"{name}.lora_B"),
        }.items():
            forms[form][f"unet.{one}.weight"], forms[form][f"unet.{other}.weight"] = down, up
    expected = None
    for form, tensors in forms.items():
        path = os.fspath(tmp_path / f"{form}.safetensors")
        adapter = read(path, tensors)
        assert adapter.convention == "diffusers"
        if expected is None:
            expected = fused(unet(), path, StableDiffusionLoraLoaderMixin)
        assert_equal(adapter, expected)


def test_a_flux_file_of_kohya_is_what_diffusers_fuses(tmp_path: Path) -> None:
    """Flux under the original names: a fused projection holds the ΔW of all parts that diffusers has."""

    def model() -> FluxTransformer2DModel:
        torch.manual_seed(0)
        return FluxTransformer2DModel(
            in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
        )  # fmt: skip

    width, tensors = 32, {}
    sizes = {
        "double_blocks_0_img_attn_qkv": (3 * width, width), "double_blocks_0_img_attn_proj": (width, width),
        "double_blocks_0_txt_mlp_0": (4 * width, width), "double_blocks_0_img_mod_lin": (6 * width, width),
        "single_blocks_0_linear2": (width, 5 * width),
    }  # fmt: skip
    # Not linear1: diffusers splits it by the widths of the released model alone.
    for seed, (name, (out, inputs)) in enumerate(sizes.items()):
        tensors[f"lora_unet_{name}.lora_down.weight"] = randn(RANK, inputs, seed=seed)
        tensors[f"lora_unet_{name}.lora_up.weight"] = randn(out, RANK, seed=seed + 50)
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(ALPHA)
    path = os.fspath(tmp_path / "flux.safetensors")
    adapter = read(path, tensors)
    assert (adapter.family, adapter.convention) == ("flux", "kohya")
    found = {module.name: module.delta(np.float64) for module in adapter.modules}
    gained = fused(model(), path, FluxLoraLoaderMixin, return_alphas=True)
    single, double = "single_transformer_blocks.0.", "transformer_blocks.0."
    parts = {
        "double_blocks.0.img_attn.qkv": [f"{double}attn.{part}" for part in ("to_q", "to_k", "to_v")],
        "double_blocks.0.img_attn.proj": [f"{double}attn.to_out.0"],
        "double_blocks.0.txt_mlp.0": [f"{double}ff_context.net.0.proj"],
        "double_blocks.0.img_mod.lin": [f"{double}norm1.linear"],
        "single_blocks.0.linear2": [f"{single}proj_out"],
    }  # fmt: skip
    assert found.keys() == parts.keys()
    for name, pieces in parts.items():
        assert apart(found[name], torch.cat([gained[f"{piece}.weight"] for piece in pieces])) < 1e-6
