"""Base families, told from names and shapes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from loracore.adapter import read_adapter
from loracore.names import canonical as names
from loracore.names.blocks import order_key
from loracore.names.recognition import Named, family_of
from tests.builders.architectures import ARCHITECTURES, Architecture, LayerSpec, llm
from tests.builders.weights import random_weights
from tests.builders.write import write_peft_folder, write_sparse
from tests.shared.names import test_canonical


def sd2() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(cross_attention_dim=1024, use_linear_projection=True)


def sd3() -> nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(num_layers=24, num_attention_heads=24)


def hunyuan() -> nn.Module:
    from diffusers import HunyuanVideoTransformer3DModel

    return HunyuanVideoTransformer3DModel(num_layers=2, num_single_layers=2)


MODELS = {
    "sd15": test_canonical.sd15, "sd2": sd2, "sdxl": test_canonical.sdxl, "sd3": sd3, "flux": test_canonical.flux,
    "qwen-image": test_canonical.qwen, "wan": test_canonical.wan, "hunyuan-video": hunyuan,
}  # fmt: skip


@cache
def parts(model: Callable[[], nn.Module]) -> list[Named]:
    with torch.device("meta"):
        made = model()
    found = []
    for name, part in made.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            component, canonical = names.canonical("unet", name)
            found.append(Named(component, canonical, tuple(part.weight.shape)))
    return found


@pytest.mark.parametrize("family", MODELS)
def test_the_real_models_modules_tell_the_family(family: str) -> None:
    """All of a model's modules say what it is, in every order."""
    modules = parts(MODELS[family])
    assert family_of(modules, {}, {}) == family
    assert family_of(reversed(modules), {}, {}) == family


@pytest.mark.parametrize("family", [family for family in MODELS if family != "hunyuan-video"])
def test_attention_alone_tells_the_family(family: str) -> None:
    """Most LoRAs adapt the attention's projections only, which is enough."""
    modules = [module for module in parts(MODELS[family]) if "to_" in module.name]
    assert family_of(modules, {}, {}) == family


def sparse(path: Path, specs: Iterable[LayerSpec], metadata: dict[str, str] | None = None) -> str:
    return write_sparse(os.fspath(path / "sparse.safetensors"), list(specs), metadata=metadata)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "llm"])
def test_kohya_files_tell_family_blocks_and_components(architecture: str, tmp_path: Path) -> None:
    """Files as kohya writes them: every module has its canonical name, and the blocks are the model's."""
    make: Architecture = ARCHITECTURES[architecture]
    adapter = read_adapter(sparse(tmp_path, make(8)))
    assert (adapter.convention, adapter.family) == ("kohya", architecture)
    assert all("." in module.name for module in adapter.modules)
    assert len({module.name for module in adapter.modules}) == len(adapter.modules)
    blocks = {module.block for module in adapter.modules if module.component in {"unet", "transformer"}}
    assert (
        blocks
        == {
            "sd15": {*(f"down_blocks.{n}" for n in range(3)), "mid_block", *(f"up_blocks.{n}" for n in (1, 2, 3))},
            "sdxl": {"down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1"},
            "flux": {*(f"double_blocks.{n}" for n in range(19)), *(f"single_blocks.{n}" for n in range(38))},
        }[architecture]
    )


@pytest.mark.parametrize(
    ("base", "family"),
    [
        ("meta-llama/Meta-Llama-3-8B", "llama"),
        ("Qwen/Qwen3-8B", "qwen"),
        ("mistralai/Mistral-7B-v0.3", "mistral"),
        ("google/gemma-2-9b", "gemma"),
        ("somebody/model", "llama"),
    ],
)
def test_language_models_of_one_shape_are_told_by_the_bases_name(base: str, family: str, tmp_path: Path) -> None:
    """Llama's relatives have its names; `base_model_name_or_path` says which it is."""
    layers = random_weights(llm(4, width=64, blocks=2), 0)
    write_peft_folder(os.fspath(tmp_path), layers, rank=4, targets=["q_proj"], base=base)
    adapter = read_adapter(os.fspath(tmp_path))
    assert adapter.family == family
    assert {module.component for module in adapter.modules} == {"llm"}
    assert [module.block for module in adapter.modules[::4]] == ["layers.0", "layers.1"]


def test_metadata_tells_what_names_and_shapes_do_not(tmp_path: Path) -> None:
    """One module that several families have: kohya's own word decides, and without it the family is unknown."""
    specs = [
        LayerSpec(
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight", "F16", (4, 64)
        ),
        LayerSpec(
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight", "F16", (64, 4)
        ),
    ]
    assert read_adapter(sparse(tmp_path, specs)).family == "unknown"
    stated = {"ss_base_model_version": "sdxl_base_v1-0"}
    assert read_adapter(sparse(tmp_path, specs, stated)).family == "sdxl"


def test_modules_come_in_the_models_order() -> None:
    """Text encoders first, then the denoiser from its input to its output, numbers as numbers."""
    expected = [
        ("te1", "te1.text_model.encoder.layers.2.mlp.fc1"),
        ("te1", "te1.text_model.encoder.layers.10.mlp.fc1"),
        ("unet", "conv_in"),
        ("unet", "down_blocks.0.attentions.0.proj_in"),
        ("unet", "down_blocks.1.attentions.0.proj_in"),
        ("unet", "mid_block.attentions.0.proj_in"),
        ("unet", "up_blocks.0.attentions.0.proj_in"),
        ("unet", "conv_out"),
        ("transformer", "transformer_blocks.9.attn.to_q"),
        ("transformer", "transformer_blocks.11.attn.to_q"),
        ("transformer", "single_transformer_blocks.0.attn.to_q"),
        ("llm", "model.layers.0.mlp"),
    ]
    backwards = expected[::-1]
    assert sorted(backwards, key=lambda pair: order_key(*pair)) == expected
