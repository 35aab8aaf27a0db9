"""PEFT's names (peft `utils/save_and_load.py`): the wrapped model's own, behind one prefix."""

from __future__ import annotations

import re

from loracore.names.convention import Convention, Suffix, bare, model_name
from loracore.names.conventions.lycoris import FACTORS, LYCORIS
from loracore.names.family import Family

#: Before the name of every module that PEFT wraps.
PEFT_PREFIX = "base_model.model."


def _stem(component: str, name: str, family: Family) -> str:
    own = model_name(component, name, family)
    # A text encoder without a projection has lost this part of its names in transformers 5.
    return PEFT_PREFIX + (bare(component, own) if component == "te1" and family.name != "sd3" else own)


PEFT = Convention(
    name="peft",
    suffixes=(
        Suffix("lora_A.weight", "down"),
        Suffix("lora_B.weight", "up"),
        Suffix("lora_B.bias", "up_bias"),
        Suffix("lora_A", "down", "never"),
        Suffix("lora_B", "up", "never"),
        Suffix("lora_embedding_A", "embedding_down"),
        Suffix("lora_embedding_B", "embedding_up"),
        Suffix("lora_magnitude_vector", "magnitude"),
        Suffix("lora_magnitude_vector.weight", "magnitude", "never"),
        Suffix("lora_E", "singular", "never"),
        Suffix("ia3_l", "ia3_l", "never"),
        Suffix("oft_R.weight", "oft_R", "never"),
        Suffix("boft_R", "boft_R", "never"),
        Suffix("boft_s", "boft_s", "never"),
    ),
    borrowed=LYCORIS.lent(*FACTORS),
    # In memory, and in files that are saved from there, the adapter's name stands between role and `.weight`.
    form=re.compile(
        r"(?P<stem>.+)\.(?P<suffix>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|lora_E"
        r"|ia3_l|hada_\w+|lokr_\w+|modules_to_save)\.(?P<adapter>[^.]+)(?P<what>\.weight|\.bias)?"
    ),
    joins=frozenset({"lycoris"}),
    stem=_stem,
)

CONVENTIONS = (PEFT,)
