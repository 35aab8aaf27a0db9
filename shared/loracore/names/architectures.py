"""The real module names of the architectures that LoRAs are made for, as templates with `#` for a number.

Taken from the models' own code: diffusers' `models/`, CompVis/stable-diffusion `openaimodel.py`,
black-forest-labs/flux, Tencent/HunyuanVideo, Wan-Video/Wan2.1, Stability-AI/sd3-ref, and transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product


def _expand(*parts: str) -> Iterator[str]:
    """Every name of `a|b` `c|d` …, joined by dots; an empty alternative leaves its part out."""
    for chosen in product(*(part.split("|") for part in parts)):
        yield ".".join(part for part in chosen if part)


_BASIC = "attn1.to_q|attn1.to_k|attn1.to_v|attn1.to_out.#|attn2.to_q|attn2.to_k|attn2.to_v|attn2.to_out.#"
_FEED = "ff.net.#.proj|ff.net.#"
_SPATIAL = "|".join(
    (
        "norm|proj_in|proj_out",
        *(f"transformer_blocks.#.{part}" for part in f"{_BASIC}|{_FEED}|norm1|norm2|norm3".split("|")),
    )
)


def _unet() -> Iterator[str]:
    yield from _expand("down_blocks.#|mid_block|up_blocks.#", "attentions.#", _SPATIAL)
    resnet = "conv1|conv2|time_emb_proj|conv_shortcut|norm1|norm2"
    yield from _expand("down_blocks.#|mid_block|up_blocks.#", "resnets.#", resnet)
    yield from ("down_blocks.#.downsamplers.#.conv", "up_blocks.#.upsamplers.#.conv")
    yield from ("conv_in", "conv_out", "conv_norm_out", "time_embedding.linear_#", "add_embedding.linear_#")
    yield "class_embedding.linear_#"


def _original_unet() -> Iterator[str]:
    inside = f"{_SPATIAL}|in_layers.#|out_layers.#|emb_layers.#|skip_connection|op|conv"
    yield from _expand("input_blocks.#.#|middle_block.#|output_blocks.#.#", inside)
    yield from ("input_blocks.#.#", "time_embed.#", "label_emb.#.#", "out.#")


def _flux() -> Iterator[str]:
    for stream in ("img", "txt"):
        attention = "attn.qkv|attn.proj|attn.norm.query_norm|attn.norm.key_norm"
        for part in (*attention.split("|"), "mlp.#", "mod.lin"):
            yield f"double_blocks.#.{stream}_{part}"
    yield from _expand("single_blocks.#", "linear1|linear2|modulation.lin|norm.query_norm|norm.key_norm")
    yield from _expand("time_in|vector_in|guidance_in", "in_layer|out_layer")
    yield from ("img_in", "txt_in", "final_layer.linear", "final_layer.adaLN_modulation.#")
    yield from (
        "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.lin",
        "single_stream_modulation.lin",
    )
    yield from _expand("distilled_guidance_layer", "in_proj|out_proj|layers.#.in_layer|layers.#.out_layer")


def _hunyuan_video() -> Iterator[str]:
    for stream in ("img", "txt"):
        for part in ("attn_qkv", "attn_proj", "mlp.fc1", "mlp.fc2", "mod.linear"):
            yield f"double_blocks.#.{stream}_{part}"
    yield from _expand("single_blocks.#", "linear1|linear2|modulation.linear")
    yield from _expand(
        "txt_in.individual_token_refiner.blocks.#",
        "self_attn_qkv|self_attn_proj|mlp.fc1|mlp.fc2|adaLN_modulation.#",
    )
    yield from ("img_in.proj", "txt_in.input_embedder", "final_layer.linear", "final_layer.adaLN_modulation.#")


def _diffusers_transformers() -> Iterator[str]:
    """Flux, SD3, Qwen-Image, PixArt, LTX, CogVideoX and others by diffusers, whose blocks share their names."""
    joint = "to_q|to_k|to_v|to_out.#|add_q_proj|add_k_proj|add_v_proj|to_add_out|norm_q|norm_k"
    parts = "ff|ff_context|img_mlp|txt_mlp"
    for blocks in ("transformer_blocks.#", "joint_transformer_blocks.#"):
        yield from _expand(blocks, "attn|attn1|attn2", joint)
        yield from _expand(blocks, parts, "net.#.proj|net.#|linear_#")
        yield from _expand(blocks, "norm1.linear|norm1_context.linear|norm2.linear|img_mod.#|txt_mod.#")
    yield from _expand("single_transformer_blocks.#", "attn", joint)
    yield from _expand("single_transformer_blocks.#", "proj_mlp|proj_out|norm.linear|ff.net.#.proj|ff.net.#")
    embedders = "timestep_embedder|guidance_embedder|text_embedder"
    yield from _expand("time_text_embed", embedders, "linear_#")
    yield from ("x_embedder", "context_embedder", "norm_out.linear", "proj_out", "img_in", "txt_in", "proj_in")
    yield from _expand("caption_projection", "linear_#")


def _wan() -> Iterator[str]:
    yield from _expand("blocks.#", "self_attn|cross_attn", "q|k|v|o|k_img|v_img|norm_q|norm_k")
    yield from _expand("blocks.#", "ffn.#|norm3|modulation")
    yield from _expand(
        "text_embedding.#|time_embedding.#|time_projection.#|head.head|patch_embedding|img_emb.proj.#"
    )
    yield from _expand("blocks.#", "attn1|attn2", "to_q|to_k|to_v|to_out.#|add_k_proj|add_v_proj")
    yield from _expand("blocks.#", "ffn.net.#.proj|ffn.net.#")
    yield from _expand("condition_embedder", "text_embedder|time_embedder", "linear_#")
    yield from ("condition_embedder.time_proj", "proj_out")


def _sd3() -> Iterator[str]:
    inside = "attn.qkv|attn.proj|attn2.qkv|attn2.proj|mlp.fc1|mlp.fc2|adaLN_modulation.#"
    yield from _expand("joint_blocks.#", "x_block|context_block", inside)
    yield from ("x_embedder.proj", "context_embedder", "t_embedder.mlp.#", "y_embedder.mlp.#")
    yield from ("final_layer.linear", "final_layer.adaLN_modulation.#")


def _lumina() -> Iterator[str]:
    """Lumina 2 and Z-Image."""
    inside = "attention.qkv|attention.out|attention.to_q|attention.to_k|attention.to_v|attention.to_out.#"
    inside += "|feed_forward.w1|feed_forward.w2|feed_forward.w3|adaLN_modulation.#"
    yield from _expand("layers.#|context_refiner.#|noise_refiner.#", inside)
    yield from ("x_embedder", "cap_embedder.#", "t_embedder.mlp.#")
    yield from ("final_layer.linear", "final_layer.adaLN_modulation.#")


def _hidream() -> Iterator[str]:
    attention = "to_q|to_k|to_v|to_out|to_q_t|to_k_t|to_v_t|to_out_t"
    yield from _expand("double_stream_blocks.#.block|single_stream_blocks.#.block", "attn1", attention)
    yield from _expand("double_stream_blocks.#.block", "ff_t", "w1|w2|w3")


def _clip() -> Iterator[str]:
    inside = "self_attn.q_proj|self_attn.k_proj|self_attn.v_proj|self_attn.out_proj"
    inside += "|mlp.fc1|mlp.fc2|layer_norm1|layer_norm2"
    yield from _expand("text_model.encoder.layers.#|encoder.layers.#", inside)
    yield from ("text_model.embeddings.token_embedding", "text_model.embeddings.position_embedding")
    yield from ("text_model.final_layer_norm", "text_projection")


def _t5() -> Iterator[str]:
    inside = (
        "SelfAttention.q|SelfAttention.k|SelfAttention.v|SelfAttention.o|SelfAttention.relative_attention_bias"
    )
    inside += "|DenseReluDense.wi|DenseReluDense.wi_#|DenseReluDense.wo|layer_norm"
    yield from _expand("encoder.block.#.layer.#", inside)
    yield from ("encoder.final_layer_norm", "shared", "encoder.embed_tokens")


def _language_model() -> Iterator[str]:
    """Llama and its relatives, which newer image models have as text encoders."""
    inside = "self_attn.q_proj|self_attn.k_proj|self_attn.v_proj|self_attn.o_proj"
    inside += "|mlp.gate_proj|mlp.up_proj|mlp.down_proj"
    yield from _expand("model.layers.#|layers.#|model.language_model.layers.#|language_model.layers.#", inside)


_DENOISERS = (
    _unet, _original_unet, _flux, _hunyuan_video, _diffusers_transformers, _wan, _sd3, _lumina, _hidream,
    _language_model,
)  # fmt: skip


@cache
def denoiser_tables() -> tuple[dict[str, str], ...]:
    """Underscored template to dotted template, a table for each architecture of a UNet or transformer."""
    return tuple({name.replace(".", "_"): name for name in rules()} for rules in _DENOISERS)


@cache
def text_tables() -> tuple[dict[str, str], ...]:
    """The same for text encoders."""
    return tuple({name.replace(".", "_"): name for name in rules()} for rules in (_clip, _t5, _language_model))
