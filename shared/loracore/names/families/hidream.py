"""HiDream (HiDream-ai/HiDream-I1; diffusers `HiDreamImageTransformer2DModel`)."""

from __future__ import annotations

from loracore.names.family import Family, Mark, templates

_BLOCKS = "double_stream_blocks.#.block|single_stream_blocks.#.block"

FAMILIES = (
    Family(
        name="hidream",
        component="transformer",
        marks=(Mark(50, r"^double_stream_blocks\.|^single_stream_blocks\."),),
        # The original and diffusers have the same names.
        diffusers=(
            *templates(_BLOCKS, "attn1", "to_q|to_k|to_v|to_out"),
            *templates("double_stream_blocks.#.block", "attn1.to_q_t|attn1.to_k_t|attn1.to_v_t|attn1.to_out_t"),
            *templates("double_stream_blocks.#.block.ff_t", "w1|w2|w3"),
        ),
        only_original=r"(double|single)_stream_blocks\.",
        heads=frozenset({"double_stream_blocks", "single_stream_blocks"}),
    ),
)
