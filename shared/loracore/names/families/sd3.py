"""Stable Diffusion 3 (Stability-AI/sd3-ref; diffusers `SD3Transformer2DModel`)."""

from __future__ import annotations

from loracore.names.family import ATTENTION, FEED, JOINT, NORMS, Family, Mark, attention, pieces, templates

_BLOCK = "joint_blocks.#.x_block|joint_blocks.#.context_block"
_EMBEDDERS = "time_text_embed"

FAMILIES = (
    Family(
        name="sd3",
        component="transformer",
        marks=(
            Mark(10, "", "te3", beside="te2"),
            Mark(20, "sd3|stable-diffusion-3", "words"),
            Mark(70, r"^joint_blocks\."),
            # Beside `attn`, in some of its blocks.
            Mark(150, r"^transformer_blocks\.\d+\.attn2\."),
            Mark(160, r"\.attn\.", width=1536),
            Mark(160, r"\.attn\.", width=2432),
        ),
        original=(
            *templates(_BLOCK, "attn.qkv|attn.proj|mlp.fc1|mlp.fc2|adaLN_modulation.#"),
            *templates("joint_blocks.#.x_block.attn2", "qkv|proj"),
            *templates("t_embedder|y_embedder", "mlp.#"),
            "x_embedder.proj", "context_embedder", "final_layer.linear", "final_layer.adaLN_modulation.#",
        ),
        diffusers=(
            *templates("transformer_blocks.#.attn", f"{JOINT}|{NORMS}"),
            *templates("transformer_blocks.#.attn2", f"{ATTENTION}|{NORMS}"),
            *templates("transformer_blocks.#", "ff|ff_context", FEED),
            *templates("transformer_blocks.#", "norm1.linear|norm1_context.linear"),
            *templates(_EMBEDDERS, "timestep_embedder|text_embedder", "linear_#"),
            "context_embedder", "norm_out.linear", "proj_out",
        ),
        renamed={
            **attention("joint_blocks.#.x_block.attn", "transformer_blocks.#.attn"),
            **attention("joint_blocks.#.context_block.attn", "transformer_blocks.#.attn", added=True),
            **attention("joint_blocks.#.x_block.attn2", "transformer_blocks.#.attn2"),
            "joint_blocks.#.x_block.mlp.fc1": pieces("transformer_blocks.#.ff.net.0.proj"),
            "joint_blocks.#.x_block.mlp.fc2": pieces("transformer_blocks.#.ff.net.2"),
            "joint_blocks.#.context_block.mlp.fc1": pieces("transformer_blocks.#.ff_context.net.0.proj"),
            "joint_blocks.#.context_block.mlp.fc2": pieces("transformer_blocks.#.ff_context.net.2"),
            "joint_blocks.#.x_block.adaLN_modulation.1": pieces("transformer_blocks.#.norm1.linear"),
            "joint_blocks.#.context_block.adaLN_modulation.1": pieces("transformer_blocks.#.norm1_context.linear"),
            "x_embedder.proj": pieces("pos_embed.proj"),
            "context_embedder": pieces("context_embedder"),
            "t_embedder.mlp.0": pieces(f"{_EMBEDDERS}.timestep_embedder.linear_1"),
            "t_embedder.mlp.2": pieces(f"{_EMBEDDERS}.timestep_embedder.linear_2"),
            "y_embedder.mlp.0": pieces(f"{_EMBEDDERS}.text_embedder.linear_1"),
            "y_embedder.mlp.2": pieces(f"{_EMBEDDERS}.text_embedder.linear_2"),
            "final_layer.linear": pieces("proj_out"),
            "final_layer.adaLN_modulation.1": pieces("norm_out.linear"),
        },
        # The last context block modulates by scale and shift alone; the others by six, which are not swapped.
        swapped=frozenset({"final_layer.adaLN_modulation.1", "joint_blocks.#.context_block.adaLN_modulation.1"}),
        only_original=r"joint_blocks\.",
        heads=frozenset({"joint_blocks"}),
        blocks=(("transformer_blocks.", "joint_blocks."),),
        encoders=("te1", "te2", "te3"),
        prefixes={
            "transformer": ("model.diffusion_model.", "diffusion_model."),
            "te1": ("text_encoders.clip_l.transformer.", "text_encoders.clip_l."),
            "te2": ("text_encoders.clip_g.transformer.", "text_encoders.clip_g."),
            "te3": ("text_encoders.t5xxl.transformer.", "text_encoders.t5xxl."),
        },
        modelspec="stable-diffusion-3/lora",
    ),
)  # fmt: skip
