"""AuraFlow (diffusers `AuraFlowTransformer2DModel`)."""

from __future__ import annotations

from loracore.names.family import ATTENTION, JOINT, NORMS, Family, Mark, templates

_JOINT = "joint_transformer_blocks.#"

FAMILIES = (
    Family(
        name="auraflow",
        component="transformer",
        marks=(Mark(80, r"^joint_transformer_blocks\."),),
        diffusers=(
            *templates(_JOINT, "attn", f"{JOINT}|{NORMS}"),
            *templates(_JOINT, "ff|ff_context", "linear_#"),
            *templates(_JOINT, "norm1.linear|norm1_context.linear"),
            *templates("single_transformer_blocks.#.attn", f"{ATTENTION}|{NORMS}"),
            "context_embedder", "norm_out.linear", "proj_out",
        ),
        heads=frozenset({"joint_transformer_blocks"}),
    ),
)  # fmt: skip
