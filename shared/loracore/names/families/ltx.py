"""LTX-Video (Lightricks/LTX-Video; diffusers `LTXVideoTransformer3DModel`)."""

from __future__ import annotations

from loracore.names.family import ATTENTION, FEED, NORMS, Family, Mark, templates

FAMILIES = (
    Family(
        name="ltx",
        component="transformer",
        marks=(Mark(140, r"^transformer_blocks\.\d+\.attn1\."),),
        diffusers=(
            *templates("transformer_blocks.#", "attn1|attn2", f"{ATTENTION}|{NORMS}"),
            *templates("transformer_blocks.#.ff", FEED),
            "caption_projection.linear_#", "proj_in", "proj_out",
        ),
    ),
)  # fmt: skip
