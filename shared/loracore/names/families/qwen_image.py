"""Qwen-Image (QwenLM/Qwen-Image; diffusers `QwenImageTransformer2DModel`), whose original is diffusers' own."""

from __future__ import annotations

from loracore.names.family import FEED, JOINT, NORMS, Family, Mark, templates

FAMILIES = (
    Family(
        name="qwen-image",
        component="transformer",
        marks=(
            Mark(40, "qwen.?image", "words"),
            Mark(90, r"^transformer_blocks\.\d+\.(img|txt)_(mlp|mod)\."),
            # It has 60 blocks of Flux's width, where Flux has 19 double ones.
            Mark(170, r"^transformer_blocks\.0*(19|[2-9]\d|[1-9]\d\d+)\.(.*\.)?attn\.", matrix=True),
        ),
        diffusers=(
            *templates("transformer_blocks.#.attn", f"{JOINT}|{NORMS}"),
            *templates("transformer_blocks.#", "img_mlp|txt_mlp", FEED),
            *templates("transformer_blocks.#", "img_mod.#|txt_mod.#"),
            "time_text_embed.timestep_embedder.linear_#", "img_in", "txt_in", "norm_out.linear", "proj_out",
        ),
        trained_as="diffusers",
    ),
)  # fmt: skip
