"""CLIP's text encoder (transformers `CLIPTextModel`).

The original names are OpenCLIP's (diffusers `single_file_utils.py`).
"""

from __future__ import annotations

from loracore.names.family import Family, pieces, templates

_LAYERS = "encoder.layers.#"
_RESBLOCK = "transformer.resblocks.#"

FAMILIES = (
    Family(
        name="clip",
        component="te",
        # transformers 5 has dropped `text_model` from the names of a text encoder without a projection.
        diffusers=(
            *templates(f"text_model.{_LAYERS}|{_LAYERS}", "self_attn", "q_proj|k_proj|v_proj|out_proj"),
            *templates(f"text_model.{_LAYERS}|{_LAYERS}", "mlp.fc1|mlp.fc2|layer_norm1|layer_norm2"),
            *templates("text_model", "embeddings.token_embedding|embeddings.position_embedding|final_layer_norm"),
            "text_projection",
        ),
        renamed={
            f"{_RESBLOCK}.attn.in_proj": pieces(*templates(_LAYERS, "self_attn", "q_proj|k_proj|v_proj")),
            f"{_RESBLOCK}.attn.out_proj": pieces(f"{_LAYERS}.self_attn.out_proj"),
            f"{_RESBLOCK}.mlp.c_fc": pieces(f"{_LAYERS}.mlp.fc1"),
            f"{_RESBLOCK}.mlp.c_proj": pieces(f"{_LAYERS}.mlp.fc2"),
        },
    ),
)
