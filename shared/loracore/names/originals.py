"""What a module is called in the original model and in diffusers', where the two differ.

An original module may be several of diffusers' below one another (a fused projection): then its rows are theirs,
in order. Sources: diffusers `scripts/convert_{original_stable_diffusion,flux,sd3,wan}_to_diffusers.py` and
`loaders/single_file_utils.py`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple


class Part(NamedTuple):
    """Which part of an original module one of diffusers' is; `of` counts the parts."""

    original: str
    place: int
    of: int


_QKV = ("to_q", "to_k", "to_v")
_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
_EMBEDDERS = "time_text_embed"


def _stream(original: str, theirs: str, added: bool) -> dict[str, tuple[str, ...]]:
    """Attention of one stream of a joint block."""
    names, out = (_ADDED, "to_add_out") if added else (_QKV, "to_out.0")
    return {
        f"{original}.qkv": tuple(f"{theirs}.{name}" for name in names),
        f"{original}.proj": (f"{theirs}.{out}",),
    }


#: Original template to diffusers' templates; `#` is a number.
_FLUX: dict[str, tuple[str, ...]] = {
    **_stream("double_blocks.#.img_attn", "transformer_blocks.#.attn", False),
    **_stream("double_blocks.#.txt_attn", "transformer_blocks.#.attn", True),
    "double_blocks.#.img_mlp.0": ("transformer_blocks.#.ff.net.0.proj",),
    "double_blocks.#.img_mlp.2": ("transformer_blocks.#.ff.net.2",),
    "double_blocks.#.txt_mlp.0": ("transformer_blocks.#.ff_context.net.0.proj",),
    "double_blocks.#.txt_mlp.2": ("transformer_blocks.#.ff_context.net.2",),
    "double_blocks.#.img_mod.lin": ("transformer_blocks.#.norm1.linear",),
    "double_blocks.#.txt_mod.lin": ("transformer_blocks.#.norm1_context.linear",),
    "single_blocks.#.linear1": (
        *(f"single_transformer_blocks.#.attn.{name}" for name in _QKV),
        "single_transformer_blocks.#.proj_mlp",
    ),
    "single_blocks.#.linear2": ("single_transformer_blocks.#.proj_out",),
    "single_blocks.#.modulation.lin": ("single_transformer_blocks.#.norm.linear",),
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": (f"{_EMBEDDERS}.timestep_embedder.linear_1",),
    "time_in.out_layer": (f"{_EMBEDDERS}.timestep_embedder.linear_2",),
    "vector_in.in_layer": (f"{_EMBEDDERS}.text_embedder.linear_1",),
    "vector_in.out_layer": (f"{_EMBEDDERS}.text_embedder.linear_2",),
    "guidance_in.in_layer": (f"{_EMBEDDERS}.guidance_embedder.linear_1",),
    "guidance_in.out_layer": (f"{_EMBEDDERS}.guidance_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
_SD3: dict[str, tuple[str, ...]] = {
    **_stream("joint_blocks.#.x_block.attn", "transformer_blocks.#.attn", False),
    **_stream("joint_blocks.#.context_block.attn", "transformer_blocks.#.attn", True),
    **_stream("joint_blocks.#.x_block.attn2", "transformer_blocks.#.attn2", False),
    "joint_blocks.#.x_block.mlp.fc1": ("transformer_blocks.#.ff.net.0.proj",),
    "joint_blocks.#.x_block.mlp.fc2": ("transformer_blocks.#.ff.net.2",),
    "joint_blocks.#.context_block.mlp.fc1": ("transformer_blocks.#.ff_context.net.0.proj",),
    "joint_blocks.#.context_block.mlp.fc2": ("transformer_blocks.#.ff_context.net.2",),
    "joint_blocks.#.x_block.adaLN_modulation.1": ("transformer_blocks.#.norm1.linear",),
    "joint_blocks.#.context_block.adaLN_modulation.1": ("transformer_blocks.#.norm1_context.linear",),
    "x_embedder.proj": ("pos_embed.proj",),
    "context_embedder": ("context_embedder",),
    "t_embedder.mlp.0": (f"{_EMBEDDERS}.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": (f"{_EMBEDDERS}.timestep_embedder.linear_2",),
    "y_embedder.mlp.0": (f"{_EMBEDDERS}.text_embedder.linear_1",),
    "y_embedder.mlp.2": (f"{_EMBEDDERS}.text_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
_WAN_ATTENTION = {
    "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "k_img": "add_k_proj", "v_img": "add_v_proj",
}  # fmt: skip
_WAN: dict[str, tuple[str, ...]] = {
    **{
        f"blocks.#.{ours}.{part}": (f"blocks.#.{theirs}.{name}",)
        for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for part, name in _WAN_ATTENTION.items()
    },
    "blocks.#.ffn.0": ("blocks.#.ffn.net.0.proj",),
    "blocks.#.ffn.2": ("blocks.#.ffn.net.2",),
    "text_embedding.0": ("condition_embedder.text_embedder.linear_1",),
    "text_embedding.2": ("condition_embedder.text_embedder.linear_2",),
    "time_embedding.0": ("condition_embedder.time_embedder.linear_1",),
    "time_embedding.2": ("condition_embedder.time_embedder.linear_2",),
    "time_projection.1": ("condition_embedder.time_proj",),
    "patch_embedding": ("patch_embedding",),
    "head.head": ("proj_out",),
}
_FAMILIES = {"flux": _FLUX, "chroma": _FLUX, "sd3": _SD3, "wan": _WAN}
_BLOCK = re.compile(r"(?<=blocks\.)\d+")


def diffusers_names(family: str, original: str) -> tuple[str, ...] | None:
    """Diffusers' modules that the rows of an original one belong to, in order; None where it is none."""
    template, number = _template(original)
    found = _FAMILIES.get(family, {}).get(template)
    return None if found is None else tuple(name.replace("#", number) for name in found)


def original_part(family: str, name: str) -> Part | None:
    """Which part of which original module one of diffusers' is; None where it is none."""
    template, number = _template(name)
    found = _inverse(family).get(template)
    return None if found is None else found._replace(original=found.original.replace("#", number))


def _template(name: str) -> tuple[str, str]:
    number = _BLOCK.search(name)
    return (name, "") if number is None else (_BLOCK.sub("#", name, count=1), number[0])


@cache
def _inverse(family: str) -> dict[str, Part]:
    return {
        name: Part(original, place, len(names))
        for original, names in _FAMILIES.get(family, {}).items()
        for place, name in enumerate(names)
    }


#: What the MLP of a Flux block is wider than the block (`mlp_ratio` of every released model).
_MLP_RATIO = 4


def part_rows(count: int, inputs: int) -> tuple[int, ...]:
    """How many rows each of `count` parts of a fused projection with so many inputs has.

    Three are queries, keys and values, as wide as the block; the fourth is Flux's MLP.
    """
    return (inputs,) * 3 + ((_MLP_RATIO * inputs,) if count == 4 else ())


def is_swapped(original: str, outputs: int, inputs: int) -> bool:
    """Whether diffusers has the module's halves the other way round: scale and shift of the last modulation."""
    if not original.endswith("adaLN_modulation.1"):
        return False
    # SD3's last context block modulates by scale and shift alone.
    return original.startswith("final_layer.") or (".context_block." in original and outputs == 2 * inputs)


_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_TOP = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0", "conv_out": "out.2", "conv_in": "input_blocks.0.0",
}  # fmt: skip
_UNET = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def original_unet(name: str, family: str) -> str | None:
    """The original name of a module of diffusers' UNet of SD1.5, SD2 or SDXL; None where it is none."""
    if name in _TOP:
        return _TOP[name]
    if (middle := _MIDDLE.fullmatch(name)) is not None:
        kind, index, rest = middle.groups()
        if kind == "attentions":
            return f"middle_block.1.{rest}" if index == "0" else None
        return f"middle_block.{2 * int(index)}.{_RESNET[rest]}" if rest in _RESNET and int(index) < 2 else None
    match = _UNET.fullmatch(name)
    if match is None:
        return None
    side, block, kind, layer, rest = match.groups()
    number = 3 * int(block) + int(layer) + (side == "down")
    stem = f"{'input' if side == 'down' else 'output'}_blocks"
    match kind:
        case "attentions":
            return f"{stem}.{number}.1.{rest}"
        case "resnets":
            return f"{stem}.{number}.0.{_RESNET[rest]}" if rest in _RESNET else None
        case "downsamplers":
            return f"{stem}.{3 * int(block) + 3}.0.op" if rest == "conv" else None
    # It stands behind the attention, which the first block of SD1.5 and SD2 going up has not.
    place = 1 if block == "0" and family in {"sd15", "sd2"} else 2
    return f"{stem}.{3 * int(block) + 2}.{place}.conv" if rest == "conv" else None
