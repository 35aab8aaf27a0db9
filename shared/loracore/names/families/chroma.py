"""Chroma (lodestone-rock/flow; diffusers `ChromaTransformer2DModel`): Flux without modulation of its own."""

from __future__ import annotations

from loracore.names.families import flux
from loracore.names.family import Family, Mark, templates

_GUIDANCE = "distilled_guidance_layer"

FAMILIES = (
    Family(
        name="chroma",
        component="transformer",
        marks=(Mark(10, rf"^{_GUIDANCE}\."),),
        original=(
            *flux.ORIGINAL,
            *templates(_GUIDANCE, "in_proj|out_proj|layers.#.in_layer|layers.#.out_layer"),
        ),
        diffusers=(*flux.DIFFUSERS, *templates(_GUIDANCE, "in_proj|out_proj")),
        renamed=flux.RENAMED,
        blocks=flux.BLOCKS,
        prefixes={"transformer": flux.PREFIXES},
    ),
)
