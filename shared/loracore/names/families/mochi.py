"""Mochi (genmoai/mochi; diffusers `MochiTransformer3DModel`): its names are known, it is not recognised."""

from __future__ import annotations

from loracore.names.family import FEED, JOINT, NORMS, Family, templates

FAMILIES = (
    Family(
        name="mochi",
        component="transformer",
        diffusers=(
            *templates("transformer_blocks.#.attn1", f"{JOINT}|{NORMS}"),
            *templates("transformer_blocks.#", "ff|ff_context", FEED),
            "norm_out.linear", "proj_out",
        ),
    ),
)  # fmt: skip
