"""Language models, most of which share Llama's module names (transformers)."""

from __future__ import annotations

from loracore.names.family import Family, Mark, templates

_LLAMA = "model.layers.#|layers.#|model.language_model.layers.#|language_model.layers.#"


def _named(name: str, order: int, *marks: Mark, starts: tuple[str, ...] = ()) -> Family:
    """One that is recognised by the base model's name where its modules are others' too."""
    return Family(name=name, component="llm", marks=(*marks, Mark(order, name, "base")), starts=starts)


FAMILIES = (
    # T5 is a text encoder first.
    Family(
        name="t5",
        component="te",
        marks=(
            Mark(50, r"\.(SelfAttention|EncDecAttention|DenseReluDense)\.", "llm"), Mark(120, "t5", "base"),
        ),
        diffusers=(
            *templates("encoder.block.#.layer.#.SelfAttention", "q|k|v|o|relative_attention_bias"),
            *templates("encoder.block.#.layer.#", "DenseReluDense.wi|DenseReluDense.wi_#|DenseReluDense.wo"),
            *templates("encoder.block.#.layer.#", "layer_norm"),
            "encoder.final_layer_norm", "shared", "encoder.embed_tokens",
        ),
    ),
    Family(
        name="gpt-neox",
        component="llm",
        marks=(Mark(10, r"(^|\.)gpt_neox\.|\.attention\.query_key_value$", "llm"),),
    ),
    _named("falcon", 70, Mark(20, r"\.self_attention\.(query_key_value|dense)$", "llm"), starts=("h.",)),
    _named("gpt2", 90, Mark(30, r"(^|\.)h\.\d+\.attn\.c_(attn|proj)$|\.mlp\.c_(fc|proj)$", "llm"), starts=("h.",)),
    _named("bert", 110, Mark(60, r"encoder\.layer\.\d+\.attention\.(self|output)\.", "llm")),
    _named("opt", 100, Mark(70, r"decoder\.layers\.\d+\.(self_attn\.(out_proj|q_proj)|fc[12])$", "llm")),
    _named("mixtral", 10, Mark(80, r"\.block_sparse_moe\.", "llm")),
    Family(
        name="phi",
        component="llm",
        marks=(Mark(90, r"\.(qkv_proj|gate_up_proj)$", "llm"), Mark(50, "phi", "base")),
        shares_names=True,
    ),
    # Llama and its relatives, which newer image models have as text encoders.
    Family(
        name="llama",
        component="llm",
        marks=(
            Mark(100, r"\.self_attn\.[qkvo]_proj$|\.mlp\.(gate|up|down)_proj$", "llm"), Mark(80, "llama", "base"),
        ),
        diffusers=(
            *templates(_LLAMA, "self_attn", "q_proj|k_proj|v_proj|o_proj"),
            *templates(_LLAMA, "mlp", "gate_proj|up_proj|down_proj"),
        ),
        shares_names=True,
    ),
    _named("mistral", 20),
    _named("qwen", 30),
    _named("gemma", 40),
    _named("deepseek", 60),
    # These are not recognised; their names are no denoiser's.
    Family(name="mpt", component="llm", starts=("blocks.",)),
    Family(name="chatglm", component="llm", starts=("encoder.", "layers.")),
)  # fmt: skip
