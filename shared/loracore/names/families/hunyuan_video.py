"""HunyuanVideo (Tencent/HunyuanVideo; diffusers `HunyuanVideoTransformer3DModel`)."""

from __future__ import annotations

from loracore.names.families import flux
from loracore.names.family import Family, Mark, templates

_STREAM = "attn_qkv|attn_proj|mlp.fc1|mlp.fc2|mod.linear"
_REFINER = "txt_in.individual_token_refiner"

FAMILIES = (
    Family(
        name="hunyuan-video",
        component="transformer",
        marks=(
            Mark(30, rf"^double_blocks\.\d+\.(img|txt)_(attn_|mlp\.fc|mod\.linear)|^{_REFINER}"),
            Mark(40, r"^context_embedder\.token_refiner"),
            Mark(60, "hunyuan", "words"),
        ),
        original=(
            *(f"double_blocks.#.{stream}_{part}" for stream in ("img", "txt") for part in _STREAM.split("|")),
            *templates("single_blocks.#", "linear1|linear2|modulation.linear"),
            *templates(f"{_REFINER}.blocks.#", "self_attn_qkv|self_attn_proj|mlp.fc1|mlp.fc2|adaLN_modulation.#"),
            "img_in.proj", "txt_in.input_embedder", "final_layer.linear", "final_layer.adaLN_modulation.#",
        ),
        diffusers=(
            *flux.DIFFUSERS,
            *templates("transformer_blocks.#", "norm1.linear|norm1_context.linear"),
            "single_transformer_blocks.#.norm.linear", "norm_out.linear", "x_embedder.proj",
            *templates("time_text_embed", "timestep_embedder|guidance_embedder|text_embedder", "linear_#"),
        ),
        blocks=flux.BLOCKS,
        prefixes={"transformer": flux.PREFIXES},
    ),
)  # fmt: skip
