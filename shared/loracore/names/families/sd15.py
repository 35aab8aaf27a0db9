"""Stable Diffusion 1 (CompVis/stable-diffusion; diffusers `UNet2DConditionModel`)."""

from __future__ import annotations

from loracore.names import unet
from loracore.names.family import Family, Mark

FAMILIES = (
    Family(
        name="sd15",
        component="unet",
        marks=(
            unet.marked_by_context(768),
            # Its attention is wrapped in convolutions.
            Mark(50, r"\.proj_(in|out)$", "unet", dims=4),
            Mark(60, r"self_attn\.q_proj$", "te1", rows=768),
            # SDXL has no attention there, and SD2 would have been told by now.
            Mark(70, r"^(down_blocks\.0\.attentions|up_blocks\.3)", "unet"),
            Mark(80, r"sd_v1|sd_1|stable-diffusion-v1|sd15|sd1.5", "words"),
        ),
        original=unet.ORIGINAL,
        diffusers=unet.DIFFUSERS,
        heads=unet.HEADS,
        order=unet.ORDER,
        encoders=("te1",),
        prefixes={"unet": unet.PREFIXES, "te1": ("cond_stage_model.transformer.",)},
        kernels={**unet.KERNELS, 1: f"{unet.KERNELS[1]}|proj_in|proj_out"},
        upsampler=1,
        modelspec="stable-diffusion-v1/lora",
    ),
)
