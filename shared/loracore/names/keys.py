"""What a key says: which module (its stem), which role the tensor has in it, and which convention names it so.

Sources: kohya-ss/sd-scripts `networks/lora.py`; peft `utils/save_and_load.py`; diffusers
`utils/state_dict_utils.py` and `loaders/lora_conversion_utils.py`; KohakuBlueleaf/LyCORIS `modules/*.py`.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Key(NamedTuple):
    """A key taken apart.

    `convention` is "" for roles that several share, and "plain" for whole tensors, which only some files have a
    use for; `adapter` is PEFT's adapter name.
    """

    stem: str
    role: str
    convention: str = ""
    adapter: str = ""


_LYCORIS = (
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2",
    "diff", "diff_b", "w_norm", "b_norm", "oft_blocks", "rescale", "on_input",
)  # fmt: skip
#: Suffixes, without the dot before them, to role and convention.
_SUFFIXES: dict[str, tuple[str, str]] = {
    "lora_down.weight": ("down", "kohya"),
    "lora_up.weight": ("up", "kohya"),
    "lora_mid.weight": ("mid", "kohya"),
    "lora_down": ("down", "kohya"),
    "lora_up": ("up", "kohya"),
    "lora_A.weight": ("down", "peft"),
    "lora_B.weight": ("up", "peft"),
    "lora_A": ("down", "peft"),
    "lora_B": ("up", "peft"),
    "lora_B.bias": ("up_bias", "peft"),
    "lora_embedding_A": ("embedding_down", "peft"),
    "lora_embedding_B": ("embedding_up", "peft"),
    "lora_magnitude_vector": ("magnitude", "peft"),
    "lora_magnitude_vector.weight": ("magnitude", "peft"),
    "lora_E": ("singular", "peft"),
    "ia3_l": ("ia3_l", "peft"),
    "oft_R.weight": ("oft_R", "peft"),
    "boft_R": ("boft_R", "peft"),
    "boft_s": ("boft_s", "peft"),
    "lora.down.weight": ("down", "diffusers"),
    "lora.up.weight": ("up", "diffusers"),
    "lora.alpha": ("alpha", "diffusers"),
    "lora_linear_layer.down.weight": ("down", "diffusers"),
    "lora_linear_layer.up.weight": ("up", "diffusers"),
    "lora_linear_layer.alpha": ("alpha", "diffusers"),
    "down": ("down", "controllora"),
    "up": ("up", "controllora"),
    "a1.weight": ("a1", "lycoris"),
    "a2.weight": ("a2", "lycoris"),
    "b1.weight": ("b1", "lycoris"),
    "b2.weight": ("b2", "lycoris"),
    "bm.weight": ("bm", "lycoris"),
    "alpha": ("alpha", ""),
    "dora_scale": ("dora_scale", ""),
    "reshape_weight": ("reshape_weight", ""),
    "set_weight": ("weight", ""),
} | {name: (name, "lycoris") for name in _LYCORIS}
#: PEFT in memory, and some who save it so: the adapter's name stands between role and `.weight`.
_NAMED = re.compile(
    r"(?P<stem>.+)\.(?P<role>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|lora_E|ia3_l"
    r"|hada_\w+|lokr_\w+|modules_to_save)\.(?P<adapter>[^.]+)(?P<what>\.weight|\.bias)?"
)
#: diffusers before 0.18: attention processors that own the factors.
_PROCESSOR = re.compile(r"(?P<stem>.+)_lora\.(?P<what>down\.weight|up\.weight|alpha)")
#: Before the name of every module that PEFT wraps.
PEFT_PREFIX = "base_model.model."


def parse_key(name: str) -> Key | None:
    """Take a layer's name apart; None where no convention knows it."""
    parts = name.rsplit(".", 3)
    for count in (3, 2, 1):
        stem = ".".join(parts[:-count])
        found = _SUFFIXES.get(".".join(parts[-count:])) if stem else None
        if found is not None and found[1] != "plain":
            return Key(stem, *found)
    if (named := _NAMED.fullmatch(name)) is not None:
        stem, role, adapter, what = named.group("stem", "role", "adapter", "what")
        if role == "modules_to_save":
            return Key(stem, what[1:], "peft", adapter) if what else None
        found = _SUFFIXES.get(role + (what if what == ".bias" else "")) or _SUFFIXES.get(role)
        return Key(stem, found[0], "peft", adapter) if found else None
    if (processor := _PROCESSOR.fullmatch(name)) is not None:
        return Key(processor["stem"] + "_lora", processor["what"].split(".")[0], "diffusers")
    stem, _, last = name.rpartition(".")
    return Key(stem, last, "plain") if stem and last in {"weight", "bias"} else None


def convention_of(key: Key, has_config: bool) -> str:
    """PEFT's names are also those of newer diffusers, which has other prefixes and no `adapter_config.json`."""
    if key.convention == "peft" and not has_config and not key.stem.startswith(PEFT_PREFIX):
        return "diffusers" if _DIFFUSERS.match(key.stem) else "peft"
    if key.convention == "lycoris" and has_config:
        return "peft"
    return key.convention


_DIFFUSERS = re.compile(
    r"(unet|transformer|transformer_2|text_encoder(_\d)?|diffusion_model|prior|model\.diffusion_model)\."
)
#: Conventions of a file's modules that are one convention in truth.
_JOINED = {frozenset({"kohya", "lycoris"}): "lycoris", frozenset({"peft", "lycoris"}): "peft"}


def convention_of_file(found: set[str]) -> str:
    """One word for the conventions of all modules: "mixed" where they do not belong together."""
    if not found:
        return "unknown"
    return next(iter(found)) if len(found) == 1 else _JOINED.get(frozenset(found), "mixed")
