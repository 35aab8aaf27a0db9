"""kohya's names: a stem with underscores for dots, in the original model's names but for SD1.5's and SD2's UNet.

Sources: kohya-ss/sd-scripts `networks/lora.py`, `lora_sdxl.py`, `lora_flux.py`, `lora_sd3.py`;
kohya-ss/musubi-tuner `networks/lora.py`.
"""

from __future__ import annotations

from loracore.names import unet
from loracore.names.convention import Convention, Nameless, Prefix, Suffix
from loracore.names.conventions.lycoris import LYCORIS
from loracore.names.conventions.shared import SHARED
from loracore.names.families import pattern
from loracore.names.family import Family

#: A text encoder that is the only one, which is not numbered.
_ONLY = "te"


def _stem(component: str, name: str, family: Family) -> str:
    inner = name
    match component:
        case "unet":
            if family.trained_as == "original":
                inner = unet.to_original(name, family.upsampler) or name
        case "transformer":
            inner = _original(name, family)
        case "te1" | "te2" | "te3":
            inner = name.removeprefix(f"{component}.")
            if inner.startswith("encoder.block.") and "te3" in family.encoders:
                # T5, which is the second encoder in Flux's pipeline.
                component = "te3"
            elif family.encoders == (component,):
                component = _ONLY
    prefix = KOHYA.prefix(component)
    if prefix is None:
        raise Nameless(f"kohya has no name for {name!r}: it is a language model's; take --to peft")
    return prefix + inner.replace(".", "_")


def _original(name: str, family: Family) -> str:
    part = family.part(name)
    if part is None:
        known = family.pieces(name) or pattern("only_original").match(name)
        if known or family.trained_as == "diffusers":
            return name
        raise Nameless(f"{name!r} of family {family.name} has no name in kohya's convention that is known here")
    if part.of > 1:
        raise Nameless(f"{name!r} is part of {part.original!r} in kohya's convention")
    return part.original


KOHYA = Convention(
    name="kohya",
    suffixes=(
        Suffix("lora_down.weight", "down"),
        Suffix("lora_up.weight", "up"),
        Suffix("lora_mid.weight", "mid"),
        Suffix("lora_down", "down", "never"),
        Suffix("lora_up", "up", "never"),
    ),
    prefixes=(
        Prefix("lora_unet_", "unet", ("unet", "transformer")),
        Prefix("lora_transformer_", "transformer"),
        *(Prefix(f"lora_te{number}_", f"te{number}", (f"te{number}",)) for number in (1, 2, 3)),
        Prefix("lora_te_", "te1", (_ONLY,)),
        Prefix("lora_prior_unet_", "unet"),
        Prefix("lora_prior_te_", "te1"),
    ),
    # A whole weight is read wherever a file may have one (`loracore.adapter.grouping`).
    borrowed=(*SHARED.lent("alpha", "dora_scale"), *LYCORIS.lent(), Suffix("weight", "weight")),
    stem=_stem,
    is_original=True,
    keeps_stems=True,
)

CONVENTIONS = (KOHYA,)
