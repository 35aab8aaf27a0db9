"""Names of modules and of their tensors in each convention, always from the model's real module names.

A stem names a module, a suffix behind it the tensor's role. Sources: kohya-ss/sd-scripts `networks/lora.py`,
`lora_sdxl.py`, `lora_flux.py`, `lora_sd3.py`; kohya-ss/musubi-tuner `networks/lora.py`; peft
`utils/save_and_load.py`; diffusers `loaders/lora_base.py` and `utils/state_dict_utils.py`.
"""

from __future__ import annotations

import re
from typing import Literal

from loracore.errors import UsageError
from loracore.names import originals
from loracore.names.keys import PEFT_PREFIX

Convention = Literal["kohya", "peft", "diffusers"]

#: Base families whose text encoder is the only one, which kohya does not number.
_ONE_ENCODER = frozenset({"sd15", "sd2", "unknown"})
#: Original transformers that kohya's trainers call by diffusers' own names.
_SAME_NAMES = frozenset({"qwen-image"})
_DIFFUSERS_PARTS = {
    "unet": "unet", "transformer": "transformer",
    "te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3",
}  # fmt: skip
#: Names that only an original model has; diffusers has none like these.
_ORIGINAL = re.compile(
    r"(double|single|joint|double_stream|single_stream)_blocks\.|blocks\.\d+\.(self_attn|cross_attn)\."
    r"|layers\.\d+\.(attention\.(qkv|out)|feed_forward)\b|(final_layer|img_in|txt_in|time_in|vector_in)\b"
)
#: Underscored stems whose real names are not known keep their stem (`loracore.names.canonical`).
_UNKNOWN = re.compile(r"(lora_(unet|te\d?|transformer|prior_unet|prior_te)|lycoris)_[^.]+$")
#: Suffix behind a stem for each role; a convention that lacks a role has no name for it.
_KOHYA = {
    "down": ".lora_down.weight", "up": ".lora_up.weight", "mid": ".lora_mid.weight", "alpha": ".alpha",
    "dora_scale": ".dora_scale", "diff": ".diff", "diff_b": ".diff_b", "w_norm": ".w_norm", "b_norm": ".b_norm",
    "oft_blocks": ".oft_blocks", "rescale": ".rescale", "on_input": ".on_input", "weight": ".weight",
    "a1": ".a1.weight", "a2": ".a2.weight", "b1": ".b1.weight", "b2": ".b2.weight", "bm": ".bm.weight",
}  # fmt: skip
_FACTORS = {
    role: f".{role}"
    for role in (
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
        "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2",
    )
}  # fmt: skip
_PEFT = {
    "down": ".lora_A.weight", "up": ".lora_B.weight", "up_bias": ".lora_B.bias",
    "embedding_down": ".lora_embedding_A", "embedding_up": ".lora_embedding_B",
    "magnitude": ".lora_magnitude_vector",
}  # fmt: skip
_DIFFUSERS = {role: _PEFT[role] for role in ("down", "up", "up_bias", "magnitude")}
#: diffusers recognises a text encoder's factors by these alone.
_DIFFUSERS_TEXT = {
    "down": ".lora_linear_layer.down.weight", "up": ".lora_linear_layer.up.weight",
    "magnitude": ".lora_magnitude_vector",
}  # fmt: skip


class Nameless(UsageError):
    """A convention has no name for a module, or for one of its tensors; the text says for which, and why."""


def key_of(convention: str, component: str, name: str, family: str) -> str:
    """The stem under which a convention names the module with the canonical (component, name).

    A module that another convention cuts or joins (a fused projection) has no single name there.

    Raises:
        Nameless: the convention has no name for it.
    """
    if convention == "kohya":
        return _kohya(component, name, family)
    if convention == "peft":
        own = model_name(component, name, family)
        # A text encoder without a projection has lost this part of its names in transformers 5.
        return PEFT_PREFIX + (bare(component, own) if component == "te1" and family != "sd3" else own)
    if convention == "diffusers":
        part = part_of(component, name, family)
        if part is None:
            raise Nameless(f"diffusers has no name for {name!r}: it is a language model's; take --to peft")
        return f"{part}.{model_name(component, name, family)}"
    raise UsageError(f"there is no naming convention {convention!r}; there are kohya, peft and diffusers")


def suffix_of(convention: str, role: str, component: str = "") -> str:
    """What follows the stem in the name of the tensor that has this role. Raises Nameless."""
    match convention:
        case "kohya":
            found = _KOHYA | _FACTORS
        case "peft":
            found = _PEFT | _FACTORS
        case _:
            found = _DIFFUSERS_TEXT if component.startswith("te") else _DIFFUSERS
    if role not in found:
        raise Nameless(f"{convention} has no name for {role}")
    return found[role]


def part_of(component: str, name: str, family: str) -> str | None:
    """The model of a diffusers pipeline that the component is; None for a language model."""
    if component == "te3" and family == "flux":
        return _DIFFUSERS_PARTS["te2"]
    return _DIFFUSERS_PARTS.get(component)


def model_name(component: str, name: str, family: str) -> str:
    """The module's name in the model of diffusers or transformers. Raises Nameless."""
    if _UNKNOWN.match(name):
        raise Nameless(f"{name!r}: no model that is known here has a module of this name")
    if component.startswith("te"):
        return name.removeprefix(f"{component}.")
    if component != "transformer":
        return name
    names = originals.diffusers_names(family, name)
    if names is None:
        if _ORIGINAL.match(name):
            raise Nameless(f"{name!r} of family {family} has no name in diffusers that is known here")
        return name
    if len(names) > 1:
        raise Nameless(f"{name!r} is {len(names)} modules in diffusers: {', '.join(names)}")
    return names[0]


def bare(component: str, name: str) -> str:
    """The name by which PEFT's patterns find a module in every version of its model.

    transformers 5 has dropped `text_model` from the names in CLIP's text model.
    """
    return name.removeprefix(f"{component}.").removeprefix("text_model.") if component.startswith("te") else name


def _kohya(component: str, name: str, family: str) -> str:
    if _UNKNOWN.match(name):
        # A stem of this convention that no table of real names knows.
        return name
    match component:
        case "unet":
            original = originals.original_unet(name, family) if family == "sdxl" else None
            return _underscored("lora_unet", original or name)
        case "transformer":
            return _underscored("lora_unet", _original_transformer(name, family))
        case "te1" | "te2" | "te3":
            inner = name.removeprefix(f"{component}.")
            number = component[2:]
            if family == "flux" and inner.startswith("encoder.block."):
                number = "3"
            if component == "te1" and family in _ONE_ENCODER:
                number = ""
            return _underscored(f"lora_te{number}", inner)
    raise Nameless(f"kohya has no name for {name!r}: it is a language model's; take --to peft")


def _original_transformer(name: str, family: str) -> str:
    part = originals.original_part(family, name)
    if part is None:
        if originals.diffusers_names(family, name) or _ORIGINAL.match(name) or family in _SAME_NAMES:
            return name
        raise Nameless(f"{name!r} of family {family} has no name in kohya's convention that is known here")
    if part.of > 1:
        raise Nameless(f"{name!r} is part of {part.original!r} in kohya's convention")
    return part.original


def _underscored(prefix: str, name: str) -> str:
    return f"{prefix}_{name.replace('.', '_')}"
