"""Canonical names: component and dotted module name of a stem.

Underscored names are mapped forward from the models' real module names: `_ARCHITECTURES` holds the names of each
architecture as templates, `#` for a number, and an underscored stem is looked up among their underscored forms.
Nothing is guessed from underscores; what no table knows keeps its stem.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product

#: Prefix in the file to component. Longer ones stand before those that they begin with.
_UNDERSCORED = {
    "lora_unet_": "unet", "lora_transformer_": "transformer", "lora_te1_": "te1", "lora_te2_": "te2",
    "lora_te3_": "te3", "lora_te_": "te1", "lora_prior_unet_": "unet", "lora_prior_te_": "te1", "lycoris_": "unet",
}  # fmt: skip
_DOTTED = {
    "model.diffusion_model.": "unet", "diffusion_model.": "unet", "unet.": "unet", "prior.": "unet",
    "lora_unet.": "unet", "transformer.": "transformer", "transformer_2.": "transformer",
    "text_encoders.clip_l.transformer.": "te1", "text_encoders.clip_g.transformer.": "te2",
    "text_encoders.t5xxl.transformer.": "te3", "text_encoder_2.": "te2", "text_encoder_3.": "te3",
    "text_encoder.": "te1", "lora_te1.": "te1", "lora_te2.": "te2", "lora_te3.": "te3", "lora_te.": "te1",
    "te1.": "te1", "te2.": "te2", "te3.": "te3", "cond_stage_model.transformer.": "te1",
}  # fmt: skip
_PEFT = "base_model.model."
#: First parts of a UNet's module names; another denoiser is a transformer.
UNET_HEADS = frozenset({
    "conv_in", "time_embedding", "add_embedding", "class_embedding", "encoder_hid_proj", "time_proj",
    "down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_out",
    "input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out",
})  # fmt: skip
_TRANSFORMER_HEADS = frozenset({
    "transformer_blocks", "single_transformer_blocks", "double_blocks", "single_blocks", "joint_blocks",
    "joint_transformer_blocks", "double_stream_blocks", "single_stream_blocks", "blocks", "x_embedder",
    "context_embedder", "time_text_embed", "condition_embedder", "norm_out", "proj_out", "img_in", "txt_in",
    "context_refiner", "noise_refiner", "caption_projection", "adaln_single",
})  # fmt: skip
_NUMBER = re.compile(r"(?<![^_])\d+(?![^_])")


def split_stem(stem: str, peft: bool) -> tuple[str, str, bool]:
    """Component, name without its prefix, and whether the name is underscored.

    `peft` says that the file is PEFT's, where a name without a known beginning is a language model's.
    """
    for prefix, component in _UNDERSCORED.items():
        if stem.startswith(prefix) and "." not in stem:
            return component, stem[len(prefix) :], True
    if stem.startswith(_PEFT):
        return _component_of(stem[len(_PEFT) :], True), stem[len(_PEFT) :], False
    if not stem.startswith(
        ("transformer.h.", "transformer.layers.", "transformer.encoder.", "transformer.blocks.")
    ):
        for prefix, component in _DOTTED.items():
            if stem.startswith(prefix):
                return component, stem[len(prefix) :], False
    return _component_of(stem, peft), stem, False


def _component_of(name: str, peft: bool) -> str:
    head = name.split(".", 1)[0]
    if head in UNET_HEADS:
        return "unet"
    if head == "text_model" or name.startswith(("encoder.block.", "encoder.layers.")):
        return "te3" if name.startswith("encoder.block.") and not peft else "te1"
    if head in _TRANSFORMER_HEADS or ("layers." in name and ".attention.to_" in name):
        return "transformer"
    return "llm" if peft or _LANGUAGE.search(name) else "transformer"


_LANGUAGE = re.compile(
    r"(^|\.)(model\.layers|h|gpt_neox\.layers|decoder\.layers|self_attn|lm_head|embed_tokens)(\.|$)"
)


def dotted(names: Iterable[str], component: str) -> dict[str, str]:
    """Dotted names of those underscored `names` of one component that a table knows.

    Several architectures have names that differ in dots alone (`img_attn.qkv`, `img_attn_qkv`): the one that
    knows most of the file's names is asked first.
    """
    templates = {name: _NUMBER.sub("#", name) for name in names}
    wanted = set(templates.values())
    tables = _text_tables() if component.startswith("te") else _denoiser_tables()
    ranked = sorted(tables, key=lambda table: -len(wanted & table.keys()))
    found = {}
    for name, template in templates.items():
        for table in ranked:
            if (form := table.get(template)) is not None:
                found[name] = form.replace("#", "{}").format(*_NUMBER.findall(name))
                break
    return found


def canonical(component: str, name: str) -> tuple[str, str]:
    """Component and canonical name of a dotted name: UNets get diffusers' names, text encoders one beginning."""
    name = name.replace(".processor.", ".")
    if name.endswith("_lora"):
        name = _processor(name[: -len("_lora")], component)
    if component in {"unet", "transformer"}:
        if name.split(".", 1)[0] in UNET_HEADS:
            return "unet", _from_original(name)
        return "llm" if component == "unet" and _LANGUAGE.search(name) else "transformer", name
    if component.startswith("te"):
        return component, f"{component}.{'text_model.' if name.startswith('encoder.layers.') else ''}{name}"
    return component, name


def _processor(name: str, component: str) -> str:
    """The module that an attention processor's factor adapts; `to_out` is a list in a UNet."""
    if component.startswith("te"):
        stem, _, last = name.rpartition(".")
        return f"{stem}.{last.replace('to_', '')}_proj"
    return f"{name}.0" if name.endswith(".to_out") else name


_ORIGINAL = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d+)(?:\.(.+))?|middle_block\.(\d+)\.(.+)")
_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_TOP = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out", "out.2": "conv_out", "input_blocks.0.0": "conv_in",
}  # fmt: skip


def _from_original(name: str) -> str:
    """Diffusers' name of a module of the original Stable Diffusion UNet (`convert_unet_state_dict` there).

    Both have two residual layers a level going down and three going up, in SD1.5, SD2 and SDXL alike.
    """
    if name in _TOP:
        return _TOP[name]
    match = _ORIGINAL.fullmatch(name)
    if match is None:
        return name
    kind, index, part, rest, middle, inside = match.groups()
    if kind is None:
        place = ("resnets.0", "attentions.0", "resnets.1")[int(middle)] if int(middle) < 3 else f"layers.{middle}"
        return f"mid_block.{place}.{_RESNET.get(inside, inside)}"
    number, rest = int(index), rest or ""
    down = kind == "input_blocks"
    block, layer = divmod(number - 1 if down else number, 3)
    root = f"{'down' if down else 'up'}_blocks.{block}"
    if rest in _RESNET:
        return f"{root}.resnets.{layer}.{_RESNET[rest]}"
    if down and rest == "op":
        return f"{root}.downsamplers.0.conv"
    if not down and rest == "conv":
        return f"{root}.upsamplers.0.conv"
    return f"{root}.attentions.{layer}.{rest}" if part == "1" and rest else name


# What follows are the names of the architectures, as rules.


def _expand(*parts: str) -> Iterator[str]:
    """Every name of `a|b` `c|d` …, joined by dots; an empty alternative leaves its part out."""
    for chosen in product(*(part.split("|") for part in parts)):
        yield ".".join(part for part in chosen if part)


_BASIC = "attn1.to_q|attn1.to_k|attn1.to_v|attn1.to_out.#|attn2.to_q|attn2.to_k|attn2.to_v|attn2.to_out.#"
_FEED = "ff.net.#.proj|ff.net.#"
_SPATIAL = "|".join(
    (
        "norm|proj_in|proj_out",
        *(f"transformer_blocks.#.{part}" for part in f"{_BASIC}|{_FEED}|norm1|norm2|norm3".split("|")),
    )
)


def _unet() -> Iterator[str]:
    yield from _expand("down_blocks.#|mid_block|up_blocks.#", "attentions.#", _SPATIAL)
    resnet = "conv1|conv2|time_emb_proj|conv_shortcut|norm1|norm2"
    yield from _expand("down_blocks.#|mid_block|up_blocks.#", "resnets.#", resnet)
    yield from ("down_blocks.#.downsamplers.#.conv", "up_blocks.#.upsamplers.#.conv")
    yield from ("conv_in", "conv_out", "conv_norm_out", "time_embedding.linear_#", "add_embedding.linear_#")
    yield "class_embedding.linear_#"


def _original_unet() -> Iterator[str]:
    inside = f"{_SPATIAL}|in_layers.#|out_layers.#|emb_layers.#|skip_connection|op|conv"
    yield from _expand("input_blocks.#.#|middle_block.#|output_blocks.#.#", inside)
    yield from ("input_blocks.#.#", "time_embed.#", "label_emb.#.#", "out.#")


def _flux() -> Iterator[str]:
    for stream in ("img", "txt"):
        attention = "attn.qkv|attn.proj|attn.norm.query_norm|attn.norm.key_norm"
        for part in (*attention.split("|"), "mlp.#", "mod.lin"):
            yield f"double_blocks.#.{stream}_{part}"
    yield from _expand("single_blocks.#", "linear1|linear2|modulation.lin|norm.query_norm|norm.key_norm")
    yield from _expand("time_in|vector_in|guidance_in", "in_layer|out_layer")
    yield from ("img_in", "txt_in", "final_layer.linear", "final_layer.adaLN_modulation.#")
    yield from (
        "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.lin",
        "single_stream_modulation.lin",
    )
    yield from _expand("distilled_guidance_layer", "in_proj|out_proj|layers.#.in_layer|layers.#.out_layer")


def _hunyuan_video() -> Iterator[str]:
    for stream in ("img", "txt"):
        for part in ("attn_qkv", "attn_proj", "mlp.fc1", "mlp.fc2", "mod.linear"):
            yield f"double_blocks.#.{stream}_{part}"
    yield from _expand("single_blocks.#", "linear1|linear2|modulation.linear")
    yield from _expand(
        "txt_in.individual_token_refiner.blocks.#",
        "self_attn_qkv|self_attn_proj|mlp.fc1|mlp.fc2|adaLN_modulation.#",
    )
    yield from ("img_in.proj", "txt_in.input_embedder", "final_layer.linear", "final_layer.adaLN_modulation.#")


def _diffusers_transformers() -> Iterator[str]:
    """Flux, SD3, Qwen-Image, PixArt, LTX, CogVideoX and others by diffusers, whose blocks share their names."""
    joint = "to_q|to_k|to_v|to_out.#|add_q_proj|add_k_proj|add_v_proj|to_add_out|norm_q|norm_k"
    parts = "ff|ff_context|img_mlp|txt_mlp"
    for blocks in ("transformer_blocks.#", "joint_transformer_blocks.#"):
        yield from _expand(blocks, "attn|attn1|attn2", joint)
        yield from _expand(blocks, parts, "net.#.proj|net.#|linear_#")
        yield from _expand(blocks, "norm1.linear|norm1_context.linear|norm2.linear|img_mod.#|txt_mod.#")
    yield from _expand("single_transformer_blocks.#", "attn", joint)
    yield from _expand("single_transformer_blocks.#", "proj_mlp|proj_out|norm.linear|ff.net.#.proj|ff.net.#")
    embedders = "timestep_embedder|guidance_embedder|text_embedder"
    yield from _expand("time_text_embed", embedders, "linear_#")
    yield from ("x_embedder", "context_embedder", "norm_out.linear", "proj_out", "img_in", "txt_in", "proj_in")
    yield from _expand("caption_projection", "linear_#")


def _wan() -> Iterator[str]:
    yield from _expand("blocks.#", "self_attn|cross_attn", "q|k|v|o|k_img|v_img|norm_q|norm_k")
    yield from _expand("blocks.#", "ffn.#|norm3|modulation")
    yield from _expand(
        "text_embedding.#|time_embedding.#|time_projection.#|head.head|patch_embedding|img_emb.proj.#"
    )
    yield from _expand("blocks.#", "attn1|attn2", "to_q|to_k|to_v|to_out.#|add_k_proj|add_v_proj")
    yield from _expand("blocks.#", "ffn.net.#.proj|ffn.net.#")
    yield from _expand("condition_embedder", "text_embedder|time_embedder", "linear_#")
    yield from ("condition_embedder.time_proj", "proj_out")


def _sd3() -> Iterator[str]:
    inside = "attn.qkv|attn.proj|attn2.qkv|attn2.proj|mlp.fc1|mlp.fc2|adaLN_modulation.#"
    yield from _expand("joint_blocks.#", "x_block|context_block", inside)
    yield from ("x_embedder.proj", "context_embedder", "t_embedder.mlp.#", "y_embedder.mlp.#")
    yield from ("final_layer.linear", "final_layer.adaLN_modulation.#")


def _lumina() -> Iterator[str]:
    """Lumina 2 and Z-Image."""
    inside = "attention.qkv|attention.out|attention.to_q|attention.to_k|attention.to_v|attention.to_out.#"
    inside += "|feed_forward.w1|feed_forward.w2|feed_forward.w3|adaLN_modulation.#"
    yield from _expand("layers.#|context_refiner.#|noise_refiner.#", inside)
    yield from ("x_embedder", "cap_embedder.#", "t_embedder.mlp.#")
    yield from ("final_layer.linear", "final_layer.adaLN_modulation.#")


def _hidream() -> Iterator[str]:
    attention = "to_q|to_k|to_v|to_out|to_q_t|to_k_t|to_v_t|to_out_t"
    yield from _expand("double_stream_blocks.#.block|single_stream_blocks.#.block", "attn1", attention)
    yield from _expand("double_stream_blocks.#.block", "ff_t", "w1|w2|w3")


def _clip() -> Iterator[str]:
    inside = "self_attn.q_proj|self_attn.k_proj|self_attn.v_proj|self_attn.out_proj"
    inside += "|mlp.fc1|mlp.fc2|layer_norm1|layer_norm2"
    yield from _expand("text_model.encoder.layers.#|encoder.layers.#", inside)
    yield from ("text_model.embeddings.token_embedding", "text_model.embeddings.position_embedding")
    yield from ("text_model.final_layer_norm", "text_projection")


def _t5() -> Iterator[str]:
    inside = (
        "SelfAttention.q|SelfAttention.k|SelfAttention.v|SelfAttention.o|SelfAttention.relative_attention_bias"
    )
    inside += "|DenseReluDense.wi|DenseReluDense.wi_#|DenseReluDense.wo|layer_norm"
    yield from _expand("encoder.block.#.layer.#", inside)
    yield from ("encoder.final_layer_norm", "shared", "encoder.embed_tokens")


def _language_model() -> Iterator[str]:
    """Llama and its relatives, which newer image models have as text encoders."""
    inside = "self_attn.q_proj|self_attn.k_proj|self_attn.v_proj|self_attn.o_proj"
    inside += "|mlp.gate_proj|mlp.up_proj|mlp.down_proj"
    yield from _expand("model.layers.#|layers.#|model.language_model.layers.#|language_model.layers.#", inside)


_DENOISERS = (
    _unet, _original_unet, _flux, _hunyuan_video, _diffusers_transformers, _wan, _sd3, _lumina, _hidream,
    _language_model,
)  # fmt: skip


@cache
def _denoiser_tables() -> tuple[dict[str, str], ...]:
    return tuple({name.replace(".", "_"): name for name in rules()} for rules in _DENOISERS)


@cache
def _text_tables() -> tuple[dict[str, str], ...]:
    return tuple({name.replace(".", "_"): name for name in rules()} for rules in (_clip, _t5, _language_model))
