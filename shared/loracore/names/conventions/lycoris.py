"""LyCORIS (KohakuBlueleaf/LyCORIS `modules/*.py`): factors beyond LoRA's, under kohya's stems."""

from __future__ import annotations

from loracore.names.convention import Convention, Prefix, Suffix

#: Of LoHa and LoKr, which PEFT calls the same.
FACTORS = (
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2",
)  # fmt: skip
_OTHERS = ("diff", "diff_b", "w_norm", "b_norm", "oft_blocks", "rescale", "on_input")

LYCORIS = Convention(
    name="lycoris",
    suffixes=(
        *(Suffix(role, role) for role in (*FACTORS, *_OTHERS)),
        *(Suffix(f"{role}.weight", role) for role in ("a1", "a2", "b1", "b2", "bm")),
    ),
    prefixes=(Prefix("lycoris_", "unet"),),
    joins=frozenset({"kohya"}),
)

CONVENTIONS = (LYCORIS,)
