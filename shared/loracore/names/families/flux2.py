"""Flux 2 (black-forest-labs/flux2; diffusers `Flux2Transformer2DModel`)."""

from __future__ import annotations

from loracore.names.families import flux
from loracore.names.family import JOINT, NORMS, Family, Mark, templates

FAMILIES = (
    Family(
        name="flux2",
        component="transformer",
        marks=(Mark(20, "^double_stream_modulation|^single_stream_modulation"),),
        original=(
            *flux.ORIGINAL,
            *templates("double_stream_modulation_img|double_stream_modulation_txt", "lin"),
            "single_stream_modulation.lin",
        ),
        diffusers=(
            *templates("transformer_blocks.#.attn", f"{JOINT}|{NORMS}"),
            *templates("single_transformer_blocks.#.attn", NORMS),
            "x_embedder", "context_embedder", "norm_out.linear", "proj_out",
        ),
        blocks=flux.BLOCKS,
        prefixes={"transformer": flux.PREFIXES},
    ),
)  # fmt: skip
