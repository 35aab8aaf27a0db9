"""The UNet of Stable Diffusion: its modules' names in the original and in diffusers, and the way between them.

Both have two residual layers a level going down and three going up, in SD1.5, SD2 and SDXL alike. Sources:
CompVis/stable-diffusion `openaimodel.py`, diffusers `scripts/convert_original_stable_diffusion_to_diffusers.py`.
"""

from __future__ import annotations

import re

from loracore.names.family import ATTENTION, FEED, Mark, templates

_SPATIAL = (
    "norm", "proj_in", "proj_out",
    *templates("transformer_blocks.#", "attn1|attn2", ATTENTION),
    *templates("transformer_blocks.#.ff", FEED), *templates("transformer_blocks.#", "norm1|norm2|norm3"),
)  # fmt: skip
#: Original names in a residual layer, and outside of all blocks, to diffusers'.
_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_TOP = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out", "out.2": "conv_out", "input_blocks.0.0": "conv_in",
}  # fmt: skip
_TO_RESNET = {theirs: ours for ours, theirs in _RESNET.items()}
_TO_TOP = {theirs: ours for ours, theirs in _TOP.items()}

DIFFUSERS = (
    *templates("down_blocks.#|mid_block|up_blocks.#", "attentions.#", "|".join(_SPATIAL)),
    *templates("down_blocks.#|up_blocks.#", "resnets.#", "|".join(_TO_RESNET)),
    *templates("mid_block.resnets.#", "conv1|conv2|time_emb_proj|norm1|norm2"),
    "down_blocks.#.downsamplers.#.conv", "up_blocks.#.upsamplers.#.conv",
    "conv_in", "conv_out", "conv_norm_out", "time_embedding.linear_#",
)  # fmt: skip
_LAYERS = "in_layers.#|out_layers.#|emb_layers.#"
ORIGINAL = (
    *templates("input_blocks.#.#|middle_block.#|output_blocks.#.#", "|".join((*_SPATIAL, _LAYERS))),
    *templates("input_blocks.#.#", "skip_connection|op"), *templates("output_blocks.#.#", "skip_connection|conv"),
    "input_blocks.#.#", "time_embed.#", "out.#",
)  # fmt: skip
#: First parts of names, in the order in which data passes them; `conv_in` stands before.
ORDER = (
    "time_embedding", "add_embedding", "class_embedding", "down_blocks", "mid_block", "up_blocks",
    "encoder_hid_proj", "input_blocks", "label_emb", "middle_block", "out", "output_blocks", "time_embed",
    "time_proj", "conv_norm_out", "conv_out",
)  # fmt: skip
HEADS = frozenset({"conv_in", *ORDER})
#: Ends of the names of convolutions, by their kernel's size.
KERNELS = {3: "conv1|conv2|conv|conv_in|conv_out", 1: "conv_shortcut"}
PREFIXES = ("model.diffusion_model.", "diffusion_model.")


def marked_by_context(width: int) -> Mark:
    """The width of the text encoder's output, which cross attention takes in."""
    return Mark(40, r"attn2\.to_[kv]$", "unet", columns=width)


_ORIGINAL = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d+)(?:\.(.+))?|middle_block\.(\d+)\.(.+)")
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def from_original(name: str) -> str:
    """Diffusers' name of an original module; the name itself where it is none."""
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


def to_original(name: str, upsampler: int) -> str | None:
    """The original name of one of diffusers' modules; None where it is none.

    `upsampler`: where it stands in the first block going up: behind the attention, which SD1.5 and SD2 lack there.
    """
    if name in _TO_TOP:
        return _TO_TOP[name]
    if (middle := _MIDDLE.fullmatch(name)) is not None:
        kind, index, rest = middle.groups()
        if kind == "attentions":
            return f"middle_block.1.{rest}" if index == "0" else None
        known = rest in _TO_RESNET and int(index) < 2
        return f"middle_block.{2 * int(index)}.{_TO_RESNET[rest]}" if known else None
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    side, block, kind, layer, rest = match.groups()
    number = 3 * int(block) + int(layer) + (side == "down")
    stem = f"{'input' if side == 'down' else 'output'}_blocks"
    match kind:
        case "attentions":
            return f"{stem}.{number}.1.{rest}"
        case "resnets":
            return f"{stem}.{number}.0.{_TO_RESNET[rest]}" if rest in _TO_RESNET else None
        case "downsamplers":
            return f"{stem}.{3 * int(block) + 3}.0.op" if rest == "conv" else None
    place = upsampler if block == "0" else 2
    return f"{stem}.{3 * int(block) + 2}.{place}.conv" if rest == "conv" else None
