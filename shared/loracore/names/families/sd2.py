"""Stable Diffusion 2 (Stability-AI/stablediffusion; diffusers `UNet2DConditionModel`)."""

from __future__ import annotations

from loracore.names import unet
from loracore.names.family import Family, Mark

FAMILIES = (
    Family(
        name="sd2",
        component="unet",
        marks=(
            unet.marked_by_context(1024),
            Mark(60, r"self_attn\.q_proj$", "te1", rows=1024),
            Mark(70, r"sd_v2|stable-diffusion-v?2", "words"),
        ),
        original=(*unet.ORIGINAL, "label_emb.#.#"),
        # That of unCLIP.
        diffusers=(*unet.DIFFUSERS, "class_embedding.linear_#"),
        heads=unet.HEADS,
        order=unet.ORDER,
        encoders=("te1",),
        prefixes={"unet": unet.PREFIXES, "te1": ("cond_stage_model.model.",)},
        kernels=unet.KERNELS,
        upsampler=1,
        modelspec="stable-diffusion-v2-768-v/lora",
    ),
)
