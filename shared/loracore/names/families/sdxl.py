"""Stable Diffusion XL (Stability-AI/generative-models; diffusers `UNet2DConditionModel`)."""

from __future__ import annotations

from loracore.names import unet
from loracore.names.family import Family, Mark

FAMILIES = (
    Family(
        name="sdxl",
        component="unet",
        marks=(
            Mark(10, "sdxl|stable-diffusion-xl|pony|illustrious", "words"),
            Mark(30, "", "te2"),
            unet.marked_by_context(2048),
            # Others have one transformer block an attention.
            Mark(40, r"attentions\.\d+\.transformer_blocks\.[1-9]|^add_embedding", "unet", matrix=True),
        ),
        original=(*unet.ORIGINAL, "label_emb.#.#"),
        diffusers=(*unet.DIFFUSERS, "add_embedding.linear_#"),
        heads=unet.HEADS,
        order=unet.ORDER,
        encoders=("te1", "te2"),
        trained_as="original",
        prefixes={
            "unet": unet.PREFIXES,
            "te1": ("conditioner.embedders.0.transformer.",),
            # The refiner has it alone.
            "te2": ("conditioner.embedders.1.model.", "conditioner.embedders.0.model."),
        },
        kernels=unet.KERNELS,
        modelspec="stable-diffusion-xl-v1-base/lora",
    ),
)
