"""Wan (Wan-Video/Wan2.1; diffusers `WanTransformer3DModel`)."""

from __future__ import annotations

from loracore.names.family import ATTENTION, FEED, Family, Mark, pieces, templates

_EMBEDDERS = "condition_embedder"
_SELF = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
#: That to the image, which image-to-video models have.
_CROSS = {**_SELF, "k_img": "add_k_proj", "v_img": "add_v_proj"}

FAMILIES = (
    Family(
        name="wan",
        component="transformer",
        marks=(
            Mark(50, "wan", "words"),
            Mark(120, r"^blocks\.\d+\.(self_attn|cross_attn|ffn|attn1|attn2)\b"),
        ),
        original=(
            *templates("blocks.#.self_attn", "q|k|v|o|norm_q|norm_k"),
            *templates("blocks.#.cross_attn", "q|k|v|o|k_img|v_img|norm_q|norm_k"),
            *templates("blocks.#", "ffn.#|norm3|modulation"),
            *templates("text_embedding|time_embedding|time_projection|img_emb.proj", "#"),
            "patch_embedding", "head.head",
        ),
        diffusers=(
            *templates("blocks.#", "attn1|attn2", ATTENTION),
            *templates("blocks.#.attn2", "add_k_proj|add_v_proj"),
            *templates("blocks.#.ffn", FEED),
            "blocks.#.norm3",
            *templates(_EMBEDDERS, "text_embedder|time_embedder", "linear_#"),
            f"{_EMBEDDERS}.time_proj", "patch_embedding", "proj_out",
        ),
        renamed={
            **{f"blocks.#.self_attn.{part}": pieces(f"blocks.#.attn1.{name}") for part, name in _SELF.items()},
            **{f"blocks.#.cross_attn.{part}": pieces(f"blocks.#.attn2.{name}") for part, name in _CROSS.items()},
            "blocks.#.ffn.0": pieces("blocks.#.ffn.net.0.proj"),
            "blocks.#.ffn.2": pieces("blocks.#.ffn.net.2"),
            "text_embedding.0": pieces(f"{_EMBEDDERS}.text_embedder.linear_1"),
            "text_embedding.2": pieces(f"{_EMBEDDERS}.text_embedder.linear_2"),
            "time_embedding.0": pieces(f"{_EMBEDDERS}.time_embedder.linear_1"),
            "time_embedding.2": pieces(f"{_EMBEDDERS}.time_embedder.linear_2"),
            "time_projection.1": pieces(f"{_EMBEDDERS}.time_proj"),
            "patch_embedding": pieces("patch_embedding"),
            "head.head": pieces("proj_out"),
        },
        only_original=r"blocks\.\d+\.(self_attn|cross_attn)\.",
        heads=frozenset({"blocks", "condition_embedder", "proj_out"}),
        # A UNet has a `time_embedding`, MPT `transformer.blocks`.
        own=r"time_embedding\.\d|blocks\.\d+\.(attn[12]|ffn\.net)\.",
    ),
)  # fmt: skip
