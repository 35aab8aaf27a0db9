"""Names that several conventions have, and conventions of a few names, which are only read."""

from __future__ import annotations

from loracore.names.convention import Convention, Prefix, Suffix

SHARED = Convention(
    name="",
    suffixes=(
        Suffix("alpha", "alpha"),
        Suffix("dora_scale", "dora_scale"),
        # ControlLoRA's, and ComfyUI's.
        Suffix("reshape_weight", "reshape_weight"),
        Suffix("set_weight", "weight"),
    ),
    prefixes=(
        # Of checkpoints, and with dots where kohya has underscores.
        Prefix("cond_stage_model.transformer.", "te1"),
        Prefix("lora_unet.", "unet"),
        *(Prefix(f"{start}te{number}.", f"te{number}") for start in ("lora_", "") for number in (1, 2, 3)),
        Prefix("lora_te.", "te1"),
    ),
)
#: Of text encoders; it reads all other conventions, too.
COMFYUI = Convention(
    name="comfyui",
    prefixes=(
        Prefix("text_encoders.clip_l.transformer.", "te1"),
        Prefix("text_encoders.clip_g.transformer.", "te2"),
        Prefix("text_encoders.t5xxl.transformer.", "te3"),
    ),
)
#: Stability's factors beside whole weights.
CONTROL_LORA = Convention(name="controllora", suffixes=(Suffix("down", "down"), Suffix("up", "up")))

CONVENTIONS = (SHARED, COMFYUI, CONTROL_LORA)
