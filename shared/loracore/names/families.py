"""Base family of an adapter, the block that a module belongs to, and the order of modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from loracore.names.canonical import UNET_HEADS


class Named(NamedTuple):
    """What the family is told from: a module's component, canonical name, and the dimensions of its ΔW."""

    component: str
    name: str
    shape: tuple[int, ...]


#: Width of the text encoder's output, which cross attention takes in, by UNet family.
_CONTEXT = {768: "sd15", 1024: "sd2", 2048: "sdxl", 1280: "cascade"}
#: The first that is found in a transformer's module names, and what follows. Order matters: what later ones
#: have in common, earlier ones have beside something of their own.
_TRANSFORMERS = (
    (r"^distilled_guidance_layer\.", "chroma"),
    (r"^double_stream_modulation|^single_stream_modulation", "flux2"),
    (
        r"^double_blocks\.\d+\.(img|txt)_(attn_|mlp\.fc|mod\.linear)|^txt_in\.individual_token_refiner",
        "hunyuan-video",
    ),
    (r"^context_embedder\.token_refiner", "hunyuan-video"),
    (r"^double_stream_blocks\.|^single_stream_blocks\.", "hidream"),
    (r"^(double|single)_blocks\.", "flux"),
    (r"^joint_blocks\.", "sd3"),
    (r"^joint_transformer_blocks\.", "auraflow"),
    (r"^transformer_blocks\.\d+\.(img|txt)_(mlp|mod)\.", "qwen-image"),
    (r"^single_transformer_blocks\.", "flux"),
    (r"^(caption_projection|adaln_single)\.", "pixart"),
    (r"^blocks\.\d+\.(self_attn|cross_attn|ffn|attn1|attn2)\b", "wan"),
    (r"^layers\.\d+\.attention\.(to_|qkv|out)|^(context|noise)_refiner\.", "lumina"),
    (r"^transformer_blocks\.\d+\.attn1\.", "ltx"),
    # Beside `attn`, in some of its blocks.
    (r"^transformer_blocks\.\d+\.attn2\.", "sd3"),
)
#: Transformers whose attention alone is named alike, by hidden width. Flux and Qwen-Image share one: 19 blocks
#: of the former are double, the latter has 60.
_JOINT_WIDTH = {1536: "sd3", 2432: "sd3"}
_FLUX_DOUBLE_BLOCKS = 19
#: Module names of language models that are no Llama relatives.
_LANGUAGE = (
    (r"(^|\.)gpt_neox\.|\.attention\.query_key_value$", "gpt-neox"),
    (r"\.self_attention\.(query_key_value|dense)$", "falcon"),
    (r"(^|\.)h\.\d+\.attn\.c_(attn|proj)$|\.mlp\.c_(fc|proj)$", "gpt2"),
    (r"\.(SelfAttention|EncDecAttention|DenseReluDense)\.", "t5"),
    (r"encoder\.layer\.\d+\.attention\.(self|output)\.", "bert"),
    (r"decoder\.layers\.\d+\.(self_attn\.(out_proj|q_proj)|fc[12])$", "opt"),
    (r"\.block_sparse_moe\.", "mixtral"),
    (r"\.(qkv_proj|gate_up_proj)$", "phi"),
    (r"\.self_attn\.[qkvo]_proj$|\.mlp\.(gate|up|down)_proj$", "llama"),
)
#: Language models that share Llama's names are told by the base model's name.
_BASES = ("mixtral", "mistral", "qwen", "gemma", "phi", "deepseek", "falcon", "llama", "gpt2", "opt", "bert", "t5")


def family_of(modules: Iterable[Named], config: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """The base family, from names and shapes; from what the file says of itself only where these do not tell."""
    modules = list(modules)
    components = {module.component for module in modules}
    if "unet" in components or (components and components <= {"te1", "te2", "te3"}):
        return _unet_family(modules, components) or _stated(config, metadata) or "unknown"
    if "transformer" in components:
        return _transformer_family(modules) or _stated(config, metadata) or "unknown"
    if "llm" in components:
        return _language_family(modules, config)
    return _stated(config, metadata) or "unknown"


def _unet_family(modules: list[Named], components: set[str]) -> str:
    if "te3" in components:
        return "sd3" if "te2" in components else "flux"
    if "te2" in components:
        return "sdxl"
    flat = ""
    for component, name, shape in modules:
        if component == "unet" and len(shape) > 1:
            if name.endswith(("attn2.to_k", "attn2.to_v")) and shape[1] in _CONTEXT:
                return _CONTEXT[shape[1]]
            if re.search(r"attentions\.\d+\.transformer_blocks\.[1-9]", name) or name.startswith("add_embedding"):
                return "sdxl"
            if name.endswith((".proj_in", ".proj_out")):
                flat = "sd15" if len(shape) == 4 else flat
        elif component == "te1" and name.endswith("self_attn.q_proj"):
            flat = flat or {1024: "sd2", 768: "sd15"}.get(shape[0], "")
    if flat:
        return flat
    outer = any(name.startswith(("down_blocks.0.attentions", "up_blocks.3")) for _, name, _ in modules)
    return "sd15" if outer else ""


def _transformer_family(modules: list[Named]) -> str:
    names = [module.name for module in modules if module.component == "transformer"]
    for pattern, family in _TRANSFORMERS:
        search = re.compile(pattern).search
        if any(search(name) for name in names):
            return family
    for component, name, shape in modules:
        if component == "transformer" and ".attn." in name and len(shape) > 1:
            if max(shape[:2]) in _JOINT_WIDTH:
                return _JOINT_WIDTH[max(shape[:2])]
            match = re.match(r"transformer_blocks\.(\d+)\.", name)
            if match and int(match[1]) >= _FLUX_DOUBLE_BLOCKS:
                return "qwen-image"
    if any("ff_context" in name or "norm1_context" in name for name in names):
        return "flux"
    return "flux" if any(name.startswith("transformer_blocks.") and ".attn." in name for name in names) else ""


def _language_family(modules: list[Named], config: Mapping[str, Any]) -> str:
    found = ""
    for pattern, family in _LANGUAGE:
        search = re.compile(pattern).search
        if any(search(module.name) for module in modules):
            found = family
            break
    base = str(config.get("base_model_name_or_path") or "").lower()
    if found in {"llama", "phi", ""}:
        return next((name for name in _BASES if name in base), found or "unknown")
    return found


def _stated(config: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """What kohya's `ss_base_model_version`, ModelSpec's architecture or the base model's name say."""
    words = " ".join(
        (
            metadata.get("ss_base_model_version", ""),
            metadata.get("modelspec.architecture", ""),
            metadata.get("ss_base_model", ""),
            str(config.get("base_model_name_or_path") or ""),
        )
    ).lower()
    for pattern, family in (
        ("sdxl|stable-diffusion-xl|pony|illustrious", "sdxl"),
        ("sd3|stable-diffusion-3", "sd3"),
        ("flux", "flux"),
        ("qwen.?image", "qwen-image"),
        ("wan", "wan"),
        ("hunyuan", "hunyuan-video"),
        ("sd_v2|stable-diffusion-v?2", "sd2"),
        ("sd_v1|sd_1|stable-diffusion-v1|sd15|sd1.5", "sd15"),
    ):
        if re.search(pattern, words):
            return family
    return ""


_UNET_BLOCK = re.compile(r"(?:down_blocks|up_blocks)\.\d+|mid_block")
_FIRST_NUMBER = re.compile(r"(.*?[._])?\d+(?=[._]|$)")
#: diffusers' names of what the original models call otherwise: blocks of both have one name.
_SAME_BLOCKS = {
    "flux": (("single_transformer_blocks.", "single_blocks."), ("transformer_blocks.", "double_blocks.")),
    "flux2": (("single_transformer_blocks.", "single_blocks."), ("transformer_blocks.", "double_blocks.")),
    "chroma": (("single_transformer_blocks.", "single_blocks."), ("transformer_blocks.", "double_blocks.")),
    "hunyuan-video": (("single_transformer_blocks.", "single_blocks."), ("transformer_blocks.", "double_blocks.")),
    "sd3": (("transformer_blocks.", "joint_blocks."),),
}


def block_of(component: str, name: str, family: str) -> str:
    """The UNet or transformer block that a module belongs to; its first part where it stands outside of all."""
    if component == "unet" and (match := _UNET_BLOCK.match(name)):
        return match[0]
    if component.startswith("te"):
        match = re.search(r"\.(?:layers|block)\.(\d+)", name)
        return f"{component}.layers.{match[1]}" if match else component
    if component == "llm":
        name = re.sub(r"^(?:model\.|transformer\.|base_model\.)+", "", name)
    match = _FIRST_NUMBER.match(name)
    if match is None:
        return name.split(".", 1)[0]
    for theirs, ours in _SAME_BLOCKS.get(family, ()):
        if match[0].startswith(theirs):
            return ours + match[0][len(theirs) :]
    return match[0]


_COMPONENTS = {name: index for index, name in enumerate(("te1", "te2", "te3", "unet", "transformer", "llm"))}
_HEADS = {
    name: index
    for index, name in enumerate((
        "conv_in", "time_embedding", "add_embedding", "class_embedding", "down_blocks", "mid_block", "up_blocks",
        "transformer_blocks", "double_blocks", "single_transformer_blocks", "single_blocks", "conv_norm_out",
        "conv_out", "norm_out", "proj_out", "final_layer",
    ))
}  # fmt: skip
_PIECES = re.compile(r"\d+|\D+")
#: A name that is digits all along would cost quadratic time to turn into a number.
_MAX_DIGITS = 18

OrderKey = tuple[int, int, tuple[tuple[int, int, str], ...]]


def order_key(component: str, name: str) -> OrderKey:
    """Sorts modules as data flows through the model: components, parts of a UNet, then numbers as numbers."""
    head = name.split(".", 1)[0]
    pieces = tuple(
        (0, int(piece), "") if piece.isdecimal() and len(piece) <= _MAX_DIGITS else (1, 0, piece)
        for piece in _PIECES.findall(name)
    )
    return (
        _COMPONENTS.get(component, len(_COMPONENTS)),
        _HEADS.get(head, 0 if head not in UNET_HEADS else 7),
        pieces,
    )
