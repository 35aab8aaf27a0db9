"""Flux (black-forest-labs/flux; diffusers `FluxTransformer2DModel`)."""

from __future__ import annotations

from loracore.names.family import FEED, JOINT, NORMS, Family, Mark, Piece, attention, pieces, templates

_STREAM = "attn.qkv|attn.proj|attn.norm.query_norm|attn.norm.key_norm|mlp.#"
#: What Chroma and Flux 2 have, too.
ORIGINAL = (
    *(f"double_blocks.#.{stream}_{part}" for stream in ("img", "txt") for part in _STREAM.split("|")),
    *templates("single_blocks.#", "linear1|linear2|norm.query_norm|norm.key_norm"),
    "img_in", "txt_in", "final_layer.linear",
)  # fmt: skip
DIFFUSERS = (
    *templates("transformer_blocks.#.attn", f"{JOINT}|{NORMS}"),
    *templates("transformer_blocks.#", "ff|ff_context", FEED),
    *templates("single_transformer_blocks.#.attn", f"to_q|to_k|to_v|{NORMS}"),
    *templates("single_transformer_blocks.#", "proj_mlp|proj_out"),
    "x_embedder", "context_embedder", "proj_out",
)  # fmt: skip
BLOCKS = (("single_transformer_blocks.", "single_blocks."), ("transformer_blocks.", "double_blocks."))
PREFIXES = ("model.diffusion_model.", "diffusion_model.")
#: What the MLP of a block is wider than the block (`mlp_ratio` of every released model).
_MLP_RATIO = 4
_EMBEDDERS = "time_text_embed"
RENAMED = {
    **attention("double_blocks.#.img_attn", "transformer_blocks.#.attn"),
    **attention("double_blocks.#.txt_attn", "transformer_blocks.#.attn", added=True),
    "double_blocks.#.img_mlp.0": pieces("transformer_blocks.#.ff.net.0.proj"),
    "double_blocks.#.img_mlp.2": pieces("transformer_blocks.#.ff.net.2"),
    "double_blocks.#.txt_mlp.0": pieces("transformer_blocks.#.ff_context.net.0.proj"),
    "double_blocks.#.txt_mlp.2": pieces("transformer_blocks.#.ff_context.net.2"),
    "single_blocks.#.linear1": (
        *pieces(*templates("single_transformer_blocks.#.attn", "to_q|to_k|to_v")),
        Piece("single_transformer_blocks.#.proj_mlp", _MLP_RATIO),
    ),
    "single_blocks.#.linear2": pieces("single_transformer_blocks.#.proj_out"),
    "img_in": pieces("x_embedder"),
    "txt_in": pieces("context_embedder"),
    "final_layer.linear": pieces("proj_out"),
}

FAMILIES = (
    Family(
        name="flux",
        component="transformer",
        marks=(
            Mark(20, "", "te3"),
            Mark(30, "flux", "words"),
            Mark(60, r"^(double|single)_blocks\."),
            Mark(100, r"^single_transformer_blocks\."),
            Mark(180, "ff_context|norm1_context"),
            Mark(190, r"^transformer_blocks\.(.*\.)?attn\."),
        ),
        original=(
            *ORIGINAL,
            *templates("double_blocks.#", "img_mod.lin|txt_mod.lin"),
            "single_blocks.#.modulation.lin", "final_layer.adaLN_modulation.#",
            *templates("time_in|vector_in|guidance_in", "in_layer|out_layer"),
        ),
        diffusers=(
            *DIFFUSERS,
            *templates("transformer_blocks.#", "norm1.linear|norm1_context.linear"),
            "single_transformer_blocks.#.norm.linear", "norm_out.linear",
            *templates(_EMBEDDERS, "timestep_embedder|guidance_embedder|text_embedder", "linear_#"),
        ),
        renamed={
            **RENAMED,
            "double_blocks.#.img_mod.lin": pieces("transformer_blocks.#.norm1.linear"),
            "double_blocks.#.txt_mod.lin": pieces("transformer_blocks.#.norm1_context.linear"),
            "single_blocks.#.modulation.lin": pieces("single_transformer_blocks.#.norm.linear"),
            "final_layer.adaLN_modulation.1": pieces("norm_out.linear"),
            "time_in.in_layer": pieces(f"{_EMBEDDERS}.timestep_embedder.linear_1"),
            "time_in.out_layer": pieces(f"{_EMBEDDERS}.timestep_embedder.linear_2"),
            "vector_in.in_layer": pieces(f"{_EMBEDDERS}.text_embedder.linear_1"),
            "vector_in.out_layer": pieces(f"{_EMBEDDERS}.text_embedder.linear_2"),
            "guidance_in.in_layer": pieces(f"{_EMBEDDERS}.guidance_embedder.linear_1"),
            "guidance_in.out_layer": pieces(f"{_EMBEDDERS}.guidance_embedder.linear_2"),
        },
        swapped=frozenset({"final_layer.adaLN_modulation.1"}),
        only_original=r"(double|single)_blocks\.|(final_layer|img_in|txt_in|time_in|vector_in)\b",
        heads=frozenset({
            "transformer_blocks", "single_transformer_blocks", "double_blocks", "single_blocks", "x_embedder",
            "context_embedder", "time_text_embed", "norm_out", "proj_out", "img_in", "txt_in",
        }),
        order=(
            "transformer_blocks", "double_blocks", "single_transformer_blocks", "single_blocks", "norm_out",
            "proj_out", "final_layer",
        ),
        blocks=BLOCKS,
        encoders=("te1", "te3"),
        prefixes={
            "transformer": PREFIXES,
            "te1": ("text_encoders.clip_l.transformer.", "text_encoders.clip_l."),
            "te3": ("text_encoders.t5xxl.transformer.", "text_encoders.t5xxl."),
        },
        modelspec="flux-1-dev/lora",
    ),
)  # fmt: skip
