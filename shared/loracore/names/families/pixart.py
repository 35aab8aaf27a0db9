"""PixArt (PixArt-alpha; diffusers `PixArtTransformer2DModel`)."""

from __future__ import annotations

from loracore.names.family import ATTENTION, FEED, Family, Mark, templates

FAMILIES = (
    Family(
        name="pixart",
        component="transformer",
        marks=(Mark(110, r"^(caption_projection|adaln_single)\."),),
        diffusers=(
            *templates("transformer_blocks.#", "attn1|attn2", ATTENTION),
            *templates("transformer_blocks.#.ff", FEED),
            "caption_projection.linear_#", "proj_out",
        ),
        heads=frozenset({"caption_projection", "adaln_single"}),
    ),
)  # fmt: skip
