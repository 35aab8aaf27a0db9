"""The tables of families, against the model classes of diffusers, transformers and peft."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from loracore.names import unet
from loracore.names.conventions import Nameless, key_of
from loracore.names.families import families
from loracore.names.family import Family

diffusers = pytest.importorskip("diffusers", reason="the names of its models are compared; install the extra dev")
transformers = pytest.importorskip("transformers", reason="as diffusers")
peft = pytest.importorskip("peft", reason="as diffusers")

_SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "cross_attention_dim": 2048, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
#: Class and configuration of each family; layers are few, widths are the released models'.
MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "sd15": ("UNet2DConditionModel", {"cross_attention_dim": 768}),
    "sd2": (
        "UNet2DConditionModel",
        {"cross_attention_dim": 1024, "use_linear_projection": True, "class_embed_type": "timestep"},
    ),
    "sdxl": ("UNet2DConditionModel", _SDXL),
    "flux": ("FluxTransformer2DModel", {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": True}),
    "chroma": ("ChromaTransformer2DModel", {"num_layers": 2, "num_single_layers": 2}),
    "flux2": ("Flux2Transformer2DModel", {"num_layers": 2, "num_single_layers": 2}),
    "hunyuan-video": ("HunyuanVideoTransformer3DModel", {"num_layers": 2, "num_single_layers": 2}),
    "hidream": (
        "HiDreamImageTransformer2DModel",
        {
            "num_layers": 1, "num_single_layers": 1, "patch_size": 2, "caption_channels": [64, 64],
            "llama_layers": [0, 1],
        },
    ),
    "sd3": (
        "SD3Transformer2DModel",
        {"num_layers": 2, "num_attention_heads": 24, "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
    ),
    "auraflow": ("AuraFlowTransformer2DModel", {"num_mmdit_layers": 2, "num_single_dit_layers": 2}),
    "qwen-image": ("QwenImageTransformer2DModel", {"num_layers": 2}),
    "pixart": (
        "PixArtTransformer2DModel",
        {"num_layers": 2, "caption_channels": 64, "use_additional_conditions": False},
    ),
    "ltx": ("LTXVideoTransformer3DModel", {"num_layers": 2}),
    "mochi": ("MochiTransformer3DModel", {"num_layers": 2}),
    "cogvideox": ("CogVideoXTransformer3DModel", {"num_layers": 2}),
    "wan": ("WanTransformer3DModel", {"num_layers": 2, "image_dim": 64, "added_kv_proj_dim": 5120}),
    "lumina": ("ZImageTransformer2DModel", {"n_layers": 2}),
}  # fmt: skip
#: Text encoders, which are transformers'.
_TEXT = {"clip", "t5", "llama"}
DENOISERS = [
    name for name, each in families().items() if each.component in {"unet", "transformer"} and each.diffusers
]


@cache
def model(family: str) -> nn.Module:
    name, config = MODELS[family]
    made = getattr(diffusers, name, None)
    if made is None:
        pytest.skip(f"this version of diffusers has no {name}")
    with torch.device("meta"), warnings.catch_warnings():
        # Its own classes use each other's old places.
        warnings.simplefilter("ignore", FutureWarning)
        return made(**config)  # type: ignore[no-any-return]


def parts(made: nn.Module) -> dict[str, tuple[int, ...]]:
    """All parameters, and all modules with the shape of their weight."""
    found = {name: tuple(each.shape) for name, each in made.named_parameters()}
    return found | {name: found.get(f"{name}.weight", ()) for name, _ in made.named_modules()}


def missing(templates: tuple[str, ...], names: Mapping[str, object]) -> list[str]:
    """Those that none of these names is of."""
    listed = "\n".join(names)
    return [each for each in templates if not re.search(expression(each), listed, re.MULTILINE)]


def expression(template: str) -> str:
    return "^" + re.escape(template).replace(r"\#", r"\d+") + "$"


@pytest.mark.parametrize("family", DENOISERS)
def test_the_model_has_every_name_of_its_table(family: str) -> None:
    assert missing(families()[family].diffusers, parts(model(family))) == []


@pytest.mark.parametrize("family", [name for name in DENOISERS if families()[name].renamed])
def test_the_parts_of_fused_projections_are_as_wide_as_the_model_says(family: str) -> None:
    """What an original module becomes is in the model, and each part has its multiple of the inputs as rows."""
    record, found = families()[family], parts(model(family))
    targets = tuple(piece.name for pieces in record.renamed.values() for piece in pieces)
    assert missing(targets, found) == []
    for pieces in record.renamed.values():
        for piece in pieces if len(pieces) > 1 else ():
            shape = found[piece.name.replace("#", "0")]
            assert shape[0] == piece.width * shape[1]


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_the_original_unet_has_every_name_of_its_table(family: str) -> None:
    """Each template is that of a module of diffusers', by way of the original names."""
    record = families()[family]
    originals = {unet.to_original(name, record.upsampler) or "": None for name in parts(model(family))}
    # A block of the original is a list, and its first convolution stands there alone.
    assert missing(record.original, originals) in ([], ["label_emb.#.#"])


#: As Flux's and HunyuanVideo's fused projections, which their converters cut by the released models' widths.
_WIDE = (7 * 3072, 1)


class Asked(dict[str, torch.Tensor]):
    """A checkpoint that has everything, and keeps what it was asked for."""

    def __init__(self, *seeds: str) -> None:
        super().__init__({seed: torch.empty(9, 1, device="meta") for seed in seeds})
        self.names: dict[str, None] = {}

    def pop(self, key: str, *_: object) -> torch.Tensor:
        self.names[key.rpartition(".")[0]] = None
        super().pop(key, None)
        return torch.empty(*_WIDE, device="meta")


_SEEDS = {
    "flux": ("double_blocks.0.x", "single_blocks.0.x", "guidance_in.in_layer.weight"),
    "chroma": ("double_blocks.0.x", "single_blocks.0.x", "distilled_guidance_layer.layers.0.x"),
    "sd3": ("joint_blocks.0.x_block.attn2.x", "joint_blocks.1.x", "context_embedder.weight", "x.ln_q"),
}
_RENAMING = {
    "wan": "convert_wan_transformer_to_diffusers",
    "hunyuan-video": "convert_hunyuan_video_transformer_to_diffusers",
    "flux2": "convert_flux2_transformer_checkpoint_to_diffusers",
    "lumina": "convert_z_image_transformer_checkpoint_to_diffusers",
}


def converter(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    from diffusers.loaders import single_file_utils

    found = getattr(single_file_utils, name, None)
    if found is None:
        pytest.skip(f"this version of diffusers has no {name}")
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", _SEEDS)
def test_diffusers_converter_asks_for_every_original_name(family: str) -> None:
    """And what it makes of them are names of the model."""
    asked = Asked(*_SEEDS[family])
    made = converter(f"convert_{family}_transformer_checkpoint_to_diffusers")(asked)
    assert missing(families()[family].original, asked.names) == []
    assert {name.rpartition(".")[0] for name in made} <= parts(model(family)).keys()


def numbered(template: str) -> Iterator[str]:
    for numbers in product(range(4), repeat=template.count("#")):
        yield template.replace("#", "{}").format(*numbers)


@pytest.mark.parametrize("family", _RENAMING)
def test_diffusers_converter_renames_every_original_name(family: str) -> None:
    """To one that its model has."""
    convert, found = converter(_RENAMING[family]), parts(model(family))

    def is_known(name: str) -> bool:
        for suffix in (".weight", ""):
            try:
                made = convert({name + suffix: torch.empty(*_WIDE, device="meta")})
            except (KeyError, IndexError, RuntimeError, ValueError):
                continue
            if made and {key.removesuffix(".weight") for key in made} <= found.keys():
                return True
        return False

    unknown = [each for each in families()[family].original if not any(map(is_known, numbered(each)))]
    assert unknown == []


def test_text_encoders_have_every_name_of_their_tables() -> None:
    """Of CLIP with its projection and without, T5 gated and plain, and Llama with and without its head."""
    config = {"num_hidden_layers": 1}
    with torch.device("meta"):
        clip = (
            transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**config)),
            transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)),
        )
        t5 = tuple(
            transformers.T5EncoderModel(transformers.T5Config(num_layers=1, feed_forward_proj=kind))
            for kind in ("relu", "gated-gelu")
        )
        llama = (
            transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)),
            transformers.LlamaModel(transformers.LlamaConfig(**config)),
        )
    for family, models in (("clip", clip), ("t5", t5), ("llama", llama)):
        names = {name: None for made in models for name in parts(made)}
        table = families()[family].diffusers
        # Of a model with images, whose language model is a part.
        assert missing(tuple(name for name in table if "language_model." not in name), names) == []


@pytest.mark.parametrize("family", ["sd15", "flux", "wan"])
def test_peft_has_the_keys_that_are_written_for_it(family: str) -> None:
    """Every name that the table gives PEFT is one of the state of the model that it wraps."""
    record = families()[family]
    made = model(family)
    linear = [name for name, each in made.named_modules() if isinstance(each, nn.Linear)]
    adapted = peft.get_peft_model(made, peft.LoraConfig(r=2, target_modules=linear))
    keys = {name.partition(".lora_A.")[0] for name, _ in adapted.named_parameters() if ".lora_A." in name}
    for name in linear:
        assert written(record, name) in keys
    model.cache_clear()


def written(record: Family, name: str) -> str:
    try:
        return key_of("peft", record.component, name, record.name)
    except Nameless as error:
        raise AssertionError(name) from error


def test_every_family_is_compared() -> None:
    """A new family with a table has a model here."""
    assert set(DENOISERS) == MODELS.keys()
    assert {name for name, each in families().items() if each.diffusers} == {*DENOISERS, *_TEXT}
