"""Names and shapes of the layers of real LoRAs: SD1.5, SDXL, Flux as kohya writes them, an LLM as PEFT does.

Module lists and sizes are those of the released models' configurations (`unet/config.json` of
runwayml/stable-diffusion-v1-5 and stabilityai/stable-diffusion-xl-base-1.0, black-forest-labs/FLUX.1-dev,
meta-llama/Llama-3-8B); key names are those of kohya-ss/sd-scripts and huggingface/peft.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple


class LayerSpec(NamedTuple):
    """A layer before it has bytes. `dtype` is safetensors' name of it, as in `F16`."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Module(NamedTuple):
    """A module that a LoRA adapts, by its key in the file; `kernel` is (1, 1) where it is a convolution."""

    key: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()


Architecture = Callable[..., list[LayerSpec]]


def sd15(rank: int = 8, *, width: int = 1, every: int = 1, dtype: str = "F16") -> list[LayerSpec]:
    """Stable Diffusion 1.5 as kohya writes it: 192 UNet and 72 text-encoder modules, 3 layers each.

    `width` divides every channel count and `every` keeps each n-th module, so that tests have tiny files
    with real names.
    """
    modules = [*_clip("lora_te", 12, 768), *_sd15_unet()]
    return _kohya(_shrink(modules, width, every), rank, dtype)


def sdxl(
    rank: int = 8, *, width: int = 1, every: int = 1, dtype: str = "F16", text_encoders: bool = True
) -> list[LayerSpec]:
    """SDXL as kohya writes it: 722 UNet modules under the original (not diffusers') names, 264 of CLIP."""
    modules = list(_sdxl_unet())
    if text_encoders:
        modules = [*_clip("lora_te1", 12, 768), *_clip("lora_te2", 32, 1280), *modules]
    return _kohya(_shrink(modules, width, every), rank, dtype)


def flux(rank: int = 4, *, width: int = 1, every: int = 1, dtype: str = "BF16") -> list[LayerSpec]:
    """Flux.1 as kohya writes it: 19 double blocks of 10 modules and 38 single blocks of 3."""
    return _kohya(_shrink(list(_flux_transformer()), width, every), rank, dtype)


def llm(
    rank: int = 16,
    *,
    width: int = 1,
    every: int = 1,
    dtype: str = "F32",
    blocks: int = 32,
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj"),
) -> list[LayerSpec]:
    """Llama 3 8B as PEFT writes it: two layers a module, no alpha (it is in `adapter_config.json`)."""
    layers = []
    for module in _shrink(list(_llama(blocks, targets)), width, every):
        layers.append(LayerSpec(f"{module.key}.lora_A.weight", dtype, (rank, module.inputs)))
        layers.append(LayerSpec(f"{module.key}.lora_B.weight", dtype, (module.outputs, rank)))
    return layers


ARCHITECTURES: dict[str, Architecture] = {"sd15": sd15, "sdxl": sdxl, "flux": flux, "llm": llm}


def _kohya(modules: Iterable[Module], rank: int, dtype: str) -> list[LayerSpec]:
    layers = []
    for module in modules:
        ones = module.kernel
        layers.append(LayerSpec(f"{module.key}.alpha", dtype, ()))
        layers.append(LayerSpec(f"{module.key}.lora_down.weight", dtype, (rank, module.inputs, *ones)))
        layers.append(LayerSpec(f"{module.key}.lora_up.weight", dtype, (module.outputs, rank, *ones)))
    return layers


def _shrink(modules: list[Module], width: int, every: int) -> list[Module]:
    return [
        module._replace(inputs=max(1, module.inputs // width), outputs=max(1, module.outputs // width))
        for module in modules[::every]
    ]


def _clip(prefix: str, layers: int, hidden: int) -> Iterator[Module]:
    for index in range(layers):
        root = f"{prefix}_text_model_encoder_layers_{index}"
        yield Module(f"{root}_mlp_fc1", hidden, 4 * hidden)
        yield Module(f"{root}_mlp_fc2", 4 * hidden, hidden)
        for part in ("k_proj", "out_proj", "q_proj", "v_proj"):
            yield Module(f"{root}_self_attn_{part}", hidden, hidden)


def _attention(root: str, channels: int, context: int) -> Iterator[Module]:
    """The ten modules of one transformer block: self and cross attention and the gated feed-forward."""
    for attention, source in (("attn1", channels), ("attn2", context)):
        yield Module(f"{root}_{attention}_to_k", source, channels)
        yield Module(f"{root}_{attention}_to_out_0", channels, channels)
        yield Module(f"{root}_{attention}_to_q", channels, channels)
        yield Module(f"{root}_{attention}_to_v", source, channels)
    yield Module(f"{root}_ff_net_0_proj", channels, 8 * channels)
    yield Module(f"{root}_ff_net_2", 4 * channels, channels)


def _spatial(root: str, channels: int, depth: int, context: int, kernel: tuple[int, ...] = ()) -> Iterator[Module]:
    yield Module(f"{root}_proj_in", channels, channels, kernel)
    yield Module(f"{root}_proj_out", channels, channels, kernel)
    for block in range(depth):
        yield from _attention(f"{root}_transformer_blocks_{block}", channels, context)


def _sd15_unet() -> Iterator[Module]:
    down, up = {0: 320, 1: 640, 2: 1280}, {1: 1280, 2: 640, 3: 320}
    places = [(f"down_blocks_{block}_attentions_{n}", size) for block, size in down.items() for n in range(2)]
    places.append(("mid_block_attentions_0", 1280))
    places += [(f"up_blocks_{block}_attentions_{n}", size) for block, size in up.items() for n in range(3)]
    for place, size in places:
        yield from _spatial(f"lora_unet_{place}", size, 1, 768, (1, 1))


def _sdxl_unet() -> Iterator[Module]:
    places = [(f"input_blocks_{block}_1", 640, 2) for block in (4, 5)]
    places += [(f"input_blocks_{block}_1", 1280, 10) for block in (7, 8)]
    places.append(("middle_block_1", 1280, 10))
    places += [(f"output_blocks_{block}_1", 1280, 10) for block in (0, 1, 2)]
    places += [(f"output_blocks_{block}_1", 640, 2) for block in (3, 4, 5)]
    for place, size, depth in places:
        yield from _spatial(f"lora_unet_{place}", size, depth, 2048)


def _flux_transformer() -> Iterator[Module]:
    hidden = 3072
    for block in range(19):
        for stream in ("img", "txt"):
            root = f"lora_unet_double_blocks_{block}_{stream}"
            yield Module(f"{root}_attn_proj", hidden, hidden)
            yield Module(f"{root}_attn_qkv", hidden, 3 * hidden)
            yield Module(f"{root}_mlp_0", hidden, 4 * hidden)
            yield Module(f"{root}_mlp_2", 4 * hidden, hidden)
            yield Module(f"{root}_mod_lin", hidden, 6 * hidden)
    for block in range(38):
        root = f"lora_unet_single_blocks_{block}"
        yield Module(f"{root}_linear1", hidden, 7 * hidden)
        yield Module(f"{root}_linear2", 5 * hidden, hidden)
        yield Module(f"{root}_modulation_lin", hidden, 3 * hidden)


def _llama(blocks: int, targets: tuple[str, ...]) -> Iterator[Module]:
    hidden, key_value, inner = 4096, 1024, 14336
    sizes = {
        "q_proj": ("self_attn", hidden, hidden),
        "k_proj": ("self_attn", hidden, key_value),
        "v_proj": ("self_attn", hidden, key_value),
        "o_proj": ("self_attn", hidden, hidden),
        "gate_proj": ("mlp", hidden, inner),
        "up_proj": ("mlp", hidden, inner),
        "down_proj": ("mlp", inner, hidden),
    }
    for block in range(blocks):
        for target in targets:
            parent, inputs, outputs = sizes[target]
            yield Module(f"base_model.model.model.layers.{block}.{parent}.{target}", inputs, outputs)
