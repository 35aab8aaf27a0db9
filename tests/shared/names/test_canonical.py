"""Canonical names, against the module names of the real models."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import nn

from loracore.names import canonical as names
from loracore.names.blocks import block_of


def _unet(**options: object) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**options)


def sd15() -> nn.Module:
    return _unet(cross_attention_dim=768)


def sdxl() -> nn.Module:
    return _unet(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def flux() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(guidance_embeds=True)


def sd3() -> nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(dual_attention_layers=(0, 1))


def qwen() -> nn.Module:
    from diffusers import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel()


def wan() -> nn.Module:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(num_layers=40, added_kv_proj_dim=5120)


def clip() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(CLIPTextConfig())


def t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(feed_forward_proj="gated-gelu"))


@cache
def adapted(model: Callable[[], nn.Module]) -> tuple[str, ...]:
    """Names of the modules that trainers adapt: linear layers and convolutions."""
    with torch.device("meta"):
        made = model()
    return tuple(name for name, part in made.named_modules() if isinstance(part, nn.Linear | nn.Conv2d))


@pytest.mark.parametrize("model", [sd15, sdxl, flux, sd3, qwen, wan, clip, t5], ids=lambda model: model.__name__)
def test_underscored_names_come_back_as_the_models_own(model: Callable[[], nn.Module]) -> None:
    """What a trainer turned into underscores is the real module name again."""
    expected = {name.replace(".", "_"): name for name in adapted(model)}
    found = names.dotted(expected, "te1" if model in (clip, t5) else "unet")
    missing = {name for flat, name in expected.items() if flat not in found}
    assert len(missing) <= 0.02 * len(expected), sorted(missing)[:20]
    assert {flat: found[flat] for flat in found} == {flat: expected[flat] for flat in found}


def test_no_block_of_a_unet_is_unknown() -> None:
    """Every adapted module of both UNets has a name, without exception."""
    for model in (sd15, sdxl):
        expected = {name.replace(".", "_"): name for name in adapted(model)}
        assert names.dotted(expected, "unet") == expected


@pytest.mark.parametrize(("model", "levels"), [(sd15, 4), (sdxl, 3)], ids=["sd15", "sdxl"])
def test_original_unet_names_become_those_of_diffusers(model: Callable[[], nn.Module], levels: int) -> None:
    """The original names, through diffusers' own table of its conversion, lead to every module there is."""
    real = set(adapted(model))
    found = set()
    for name in original_names(levels):
        component, canonical = names.canonical("unet", name)
        assert component == "unet"
        found.add(canonical)
    resnets = {name for name in real if ".resnets." in name or "samplers" in name}
    assert resnets <= found
    attentions = {name for name in real if ".attentions." in name and name.endswith("proj_in")}
    assert attentions <= found


def original_names(levels: int) -> list[str]:
    """Names of Stable Diffusion's original UNet, by its constructor's loops (`openaimodel.py`)."""
    made, index = ["time_embed.0", "time_embed.2", "input_blocks.0.0", "out.2"], 1
    parts = ("in_layers.2", "emb_layers.1", "out_layers.3", "skip_connection")
    for level in range(levels):
        for _ in range(2):
            made += [f"input_blocks.{index}.0.{part}" for part in parts]
            made.append(f"input_blocks.{index}.1.proj_in")
            index += 1
        if level < levels - 1:
            made.append(f"input_blocks.{index}.0.op")
            index += 1
    made += [f"middle_block.{number}.{part}" for number in (0, 2) for part in parts]
    made.append("middle_block.1.proj_in")
    for index in range(3 * levels):
        made += [f"output_blocks.{index}.0.{part}" for part in parts]
        made.append(f"output_blocks.{index}.1.proj_in")
        if index % 3 == 2 and index < 3 * levels - 1:
            made += [f"output_blocks.{index}.1.conv", f"output_blocks.{index}.2.conv"]
    return made


def test_forms_of_other_architectures_do_not_collide() -> None:
    """Two architectures whose names differ in dots alone are told apart by the rest of the file."""
    flux_names = ["double_blocks_0_img_attn_qkv", "double_blocks_0_img_mlp_0", "double_blocks_0_img_mod_lin"]
    assert names.dotted(flux_names, "unet")[flux_names[0]] == "double_blocks.0.img_attn.qkv"
    hunyuan = ["double_blocks_0_img_attn_qkv", "double_blocks_0_img_mlp_fc1", "double_blocks_0_img_mod_linear"]
    assert names.dotted(hunyuan, "unet")[hunyuan[0]] == "double_blocks.0.img_attn_qkv"


#: A stem, and under it component, canonical name, block.
DOTTED = """\
unet.down_blocks.1.attentions.0.proj_in
    unet down_blocks.1.attentions.0.proj_in down_blocks.1
unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora
    unet mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0 mid_block
text_encoder.text_model.encoder.layers.3.self_attn.to_q_lora
    te1 te1.text_model.encoder.layers.3.self_attn.q_proj te1.layers.3
text_encoder_2.text_model.encoder.layers.30.mlp.fc1
    te2 te2.text_model.encoder.layers.30.mlp.fc1 te2.layers.30
transformer.single_transformer_blocks.7.proj_mlp
    transformer single_transformer_blocks.7.proj_mlp single_blocks.7
diffusion_model.double_blocks.7.img_attn.qkv
    transformer double_blocks.7.img_attn.qkv double_blocks.7
diffusion_model.input_blocks.4.1.proj_in
    unet down_blocks.1.attentions.0.proj_in down_blocks.1
base_model.model.model.layers.12.self_attn.q_proj
    llm model.layers.12.self_attn.q_proj layers.12
base_model.model.transformer.h.3.attn.c_attn
    llm transformer.h.3.attn.c_attn h.3
base_model.model.transformer_blocks.3.attn.to_q
    transformer transformer_blocks.3.attn.to_q double_blocks.3
base_model.model.score
    llm score score
transformer.blocks.0.attn1.to_q
    transformer blocks.0.attn1.to_q blocks.0
diffusion_model.blocks.3.self_attn.q
    transformer blocks.3.self_attn.q blocks.3
diffusion_model.time_embedding.0
    transformer time_embedding.0 time_embedding.0
unet.time_embedding.linear_1
    unet time_embedding.linear_1 time_embedding.linear_1
unet.conv_in
    unet conv_in conv_in
"""
LINES = DOTTED.splitlines()
CASES = list(zip(LINES[::2], LINES[1::2], strict=True))


@pytest.mark.parametrize(("stem", "expected"), CASES, ids=LINES[::2])
def test_dotted_names(stem: str, expected: str) -> None:
    """Prefixes and processors are taken off, and each module finds its block."""
    component, name, block = expected.split()
    found, rest, flat = names.split_stem(stem, stem.startswith("base_model."))
    assert not flat
    assert names.canonical(found, rest) == (component, name)
    assert block_of(component, name, "flux") == block


def test_unknown_underscored_names_keep_their_stem() -> None:
    """Nothing is guessed from underscores."""
    assert names.dotted(["some_new_block_3_to_q"], "unet") == {}
