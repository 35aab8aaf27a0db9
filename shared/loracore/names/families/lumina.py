"""Lumina 2 and Z-Image (Alpha-VLLM/Lumina-Image-2.0, Tongyi-MAI/Z-Image; diffusers `ZImageTransformer2DModel`)."""

from __future__ import annotations

from loracore.names.family import ATTENTION, Family, Mark, templates

_BLOCKS = "layers.#|context_refiner.#|noise_refiner.#"
_FEED = "feed_forward.w1|feed_forward.w2|feed_forward.w3"
#: Those of the context are not modulated.
_MODULATION = templates("layers.#|noise_refiner.#", "adaLN_modulation.#")

FAMILIES = (
    Family(
        name="lumina",
        component="transformer",
        marks=(Mark(130, r"^layers\.\d+\.attention\.(to_|qkv|out)|^(context|noise)_refiner\."),),
        original=(
            *templates(_BLOCKS, f"attention.qkv|attention.out|{_FEED}"), *_MODULATION,
            "x_embedder", "cap_embedder.#", "t_embedder.mlp.#", "final_layer.linear",
            "final_layer.adaLN_modulation.#",
        ),
        diffusers=(
            *templates(_BLOCKS, "attention", ATTENTION), *templates(_BLOCKS, _FEED), *_MODULATION,
            "cap_embedder.#", "t_embedder.mlp.#",
        ),
        only_original=r"layers\.\d+\.(attention\.(qkv|out)|feed_forward)\b",
        heads=frozenset({"context_refiner", "noise_refiner"}),
        inside=r"^(?=.*layers\.).*\.attention\.to_",
    ),
)  # fmt: skip
