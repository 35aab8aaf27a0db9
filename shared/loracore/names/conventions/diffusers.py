"""diffusers' names: a part of a pipeline, then its module.

Sources: diffusers `loaders/lora_base.py`, `utils/state_dict_utils.py`, `loaders/lora_conversion_utils.py`.
"""

from __future__ import annotations

import re

from loracore.names.convention import Convention, Nameless, Prefix, Suffix, model_name
from loracore.names.conventions.peft import PEFT
from loracore.names.family import Family


def part_of(component: str, family: Family) -> str | None:
    """The model of a diffusers pipeline that the component is; None for a language model."""
    if component in family.encoders:
        component = f"te{family.encoders.index(component) + 1}"
    prefix = DIFFUSERS.prefix(component)
    return prefix and prefix.removesuffix(".")


def _stem(component: str, name: str, family: Family) -> str:
    part = part_of(component, family)
    if part is None:
        raise Nameless(f"diffusers has no name for {name!r}: it is a language model's; take --to peft")
    return f"{part}.{model_name(component, name, family)}"


DIFFUSERS = Convention(
    name="diffusers",
    suffixes=(
        # A text encoder's factors are recognised by these alone.
        Suffix("lora_linear_layer.down.weight", "down", "text"),
        Suffix("lora_linear_layer.up.weight", "up", "text"),
        Suffix("lora_linear_layer.alpha", "alpha", "never"),
        Suffix("lora.down.weight", "down", "never"),
        Suffix("lora.up.weight", "up", "never"),
        Suffix("lora.alpha", "alpha", "never"),
    ),
    prefixes=(
        Prefix("unet.", "unet", ("unet",)),
        Prefix("transformer.", "transformer", ("transformer",)),
        Prefix("transformer_2.", "transformer"),
        Prefix("prior.", "unet"),
        Prefix("text_encoder.", "te1", ("te1",)),
        Prefix("text_encoder_2.", "te2", ("te2",)),
        Prefix("text_encoder_3.", "te3", ("te3",)),
        # Of those that train for ComfyUI, in the original's names.
        Prefix("diffusion_model.", "unet"),
        Prefix("model.diffusion_model.", "unet"),
    ),
    borrowed=(*PEFT.lent("down", "up", "up_bias", written="denoiser"), *PEFT.lent("magnitude")),
    # Before 0.18: attention processors that own the factors.
    form=re.compile(r"(?P<stem>.+_lora)\.(?:(?P<down>down\.weight)|(?P<up>up\.weight)|(?P<alpha>alpha))"),
    stem=_stem,
)

CONVENTIONS = (DIFFUSERS,)
