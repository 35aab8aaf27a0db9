"""CogVideoX (diffusers `CogVideoXTransformer3DModel`): its names are known, it is not recognised."""

from __future__ import annotations

from loracore.names.family import ATTENTION, FEED, NORMS, Family, templates

FAMILIES = (
    Family(
        name="cogvideox",
        component="transformer",
        diffusers=(
            *templates("transformer_blocks.#.attn1", f"{ATTENTION}|{NORMS}"),
            *templates("transformer_blocks.#.ff", FEED),
            *templates("transformer_blocks.#", "norm1.linear|norm2.linear"),
            "norm_out.linear", "proj_out",
        ),
    ),
)  # fmt: skip
