"""Canonical names: component and dotted module name of a stem.

Underscored names are mapped forward from the models' real module names (`architectures`): an underscored stem is
looked up among the underscored forms of these. Nothing is guessed from underscores; what no table knows keeps its
stem.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from loracore.names.architectures import denoiser_tables, text_tables
from loracore.names.keys import PEFT_PREFIX

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
#: Wan's in diffusers, whose beginning MPT's modules have too.
_WANS_BLOCKS = re.compile(r"transformer\.blocks\.\d+\.(attn[12]|ffn\.net)\.")
_NUMBER = re.compile(r"(?<![^_])\d+(?![^_])")


def split_stem(stem: str, peft: bool) -> tuple[str, str, bool]:
    """Component, name without its prefix, and whether the name is underscored.

    `peft` says that the file is PEFT's, where a name without a known beginning is a language model's.
    """
    for prefix, component in _UNDERSCORED.items():
        if stem.startswith(prefix) and "." not in stem:
            return component, stem[len(prefix) :], True
    if stem.startswith(PEFT_PREFIX):
        return _component_of(stem[len(PEFT_PREFIX) :], True), stem[len(PEFT_PREFIX) :], False
    language = ("transformer.h.", "transformer.layers.", "transformer.encoder.", "transformer.blocks.")
    if not stem.startswith(language) or _WANS_BLOCKS.match(stem):
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
    tables = text_tables() if component.startswith("te") else denoiser_tables()
    ranked = sorted(tables, key=lambda table: -len(wanted & table.keys()))
    found = {}
    for name, template in templates.items():
        for table in ranked:
            if (form := table.get(template)) is not None:
                found[name] = form.replace("#", "{}").format(*_NUMBER.findall(name))
                break
    return found


#: Wan's, whose first part a UNet has too.
_WANS = re.compile(r"time_embedding\.\d")


def canonical(component: str, name: str) -> tuple[str, str]:
    """Component and canonical name of a dotted name: UNets get diffusers' names, text encoders one beginning."""
    name = name.replace(".processor.", ".")
    if name.endswith("_lora"):
        name = _processor(name[: -len("_lora")], component)
    if component in {"unet", "transformer"}:
        head = name.split(".", 1)[0]
        if head in UNET_HEADS and not _WANS.match(name):
            return "unet", _from_original(name)
        language = component == "unet" and head not in _TRANSFORMER_HEADS and _LANGUAGE.search(name)
        return "llm" if language else "transformer", name
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
