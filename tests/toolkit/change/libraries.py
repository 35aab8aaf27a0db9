"""Small models of the real libraries, kohya's files for them, and what loading a file adds to each weight."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from diffusers.loaders.lora_pipeline import (
    FluxLoraLoaderMixin,
    SD3LoraLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
)
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Tensors = dict[str, torch.Tensor]
#: Attention's inputs from the text, by which a UNet's family is told.
CONTEXT = {"sd15": 768, "sdxl": 2048}


def unet(family: str = "sd15") -> UNet2DConditionModel:
    """With the module names of SD1.5 or SDXL."""
    torch.manual_seed(0)
    down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    levels = 4
    if family == "sdxl":
        levels, down, up = 3, (down[3], down[0], down[0]), (up[1], up[1], up[0])
    return UNet2DConditionModel(
        block_out_channels=(8, 16, 16, 16)[:levels],
        down_block_types=down,
        up_block_types=up,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=CONTEXT[family],
        use_linear_projection=family == "sdxl",
    )


def flux(heads: int = 2) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=heads,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip


def clip(*, projection: bool = False) -> nn.Module:
    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, projection_dim=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=8, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def adapted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that trainers adapt: those of attention blocks, and the convolutions of a UNet."""
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear) and ("attentions" in name or "layers" in name or "blocks." in name):
            if "time_emb" not in name:
                yield name, part
        elif isinstance(part, nn.Conv2d) and ("attentions" in name or ".resnets." in name):
            yield name, part


def kohya(
    model: nn.Module,
    prefix: str,
    rename: Callable[[str], str] = lambda name: name,
    *,
    dtype: torch.dtype = torch.float16,
    alphas: float = 1.5,
    seed: int = 0,
) -> Tensors:
    """A file as sd-scripts writes it, whose ranks are not all the same, nor alphas: every fifth is `alphas`."""
    tensors: Tensors = {}
    generator = torch.Generator().manual_seed(seed)
    for count, (name, part) in enumerate(adapted(model)):
        rank, alpha = (4, 2.0) if count % 5 else (3, alphas)
        out, inputs, *kernel = part.weight.shape
        key = prefix + rename(name).replace(".", "_")
        ones = [1] * len(kernel)
        tensors[f"{key}.lora_down.weight"] = torch.randn(rank, inputs, *kernel, generator=generator).to(dtype)
        tensors[f"{key}.lora_up.weight"] = torch.randn(out, rank, *ones, generator=generator).to(dtype)
        tensors[f"{key}.alpha"] = torch.tensor(alpha, dtype=dtype)
    return tensors


def save(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    return path


Gained = dict[str, torch.Tensor]


def by_diffusers(path: Path, family: str, model: Any, texts: Mapping[str, Any] | None = None) -> Gained:
    """What each weight gains when diffusers loads the file into its models and fuses it.

    Text encoders are given by the name that they have in a pipeline; their weights are told with it in front.
    """
    loader: Any = {
        "sd15": StableDiffusionLoraLoaderMixin, "sdxl": StableDiffusionXLLoraLoaderMixin,
        "flux": FluxLoraLoaderMixin, "sd3": SD3LoraLoaderMixin,
    }[family]  # fmt: skip
    options: dict[str, Any] = {"return_alphas": True} if family == "flux" else {}
    if family == "sdxl":
        options["unet_config"] = model.config
    parts = {"": model, **(texts or {})}
    before = {part: _weights(each) for part, each in parts.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state, *alphas, metadata = loader.lora_state_dict(
            os.fspath(path.parent), weight_name=path.name, return_lora_metadata=True, **options
        )
        # SD3's knows no alphas but those in the header.
        scales = {"network_alphas": alphas[0] or None} if alphas else {}
        if family in {"flux", "sd3"}:
            loader.load_lora_into_transformer(state, transformer=model, metadata=metadata, **scales)
        else:
            loader.load_lora_into_unet(state, unet=model, metadata=metadata, **scales)
        for name, each in (texts or {}).items():
            loader.load_lora_into_text_encoder(state, text_encoder=each, prefix=name, metadata=metadata, **scales)
        for each in parts.values():
            _merge(each)
    return {
        f"{part}.{name}".removeprefix("."): value
        for part, each in parts.items()
        for name, value in _difference(before[part], each).items()
    }


def by_peft(folder: Path, model: nn.Module, name: str = "default") -> Gained:
    """What each weight gains when PEFT loads the folder and merges it."""
    from peft import PeftModel

    before = _weights(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*(tie_word_embeddings|save_embedding_layers)")
        tuned = PeftModel.from_pretrained(model, os.fspath(folder), adapter_name=name)
    merged = tuned.merge_and_unload()
    return _difference(before, merged)


def _merge(model: nn.Module) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for part in model.modules():
        if isinstance(part, BaseTunerLayer):
            part.merge()


def _weights(model: nn.Module) -> Tensors:
    # In double precision a difference shows ΔW alone.
    model.double()
    return {name: value.clone() for name, value in model.state_dict().items()}


def _difference(before: Tensors, model: nn.Module) -> Gained:
    after = {
        name.replace(".base_layer", ""): value for name, value in model.state_dict().items() if "lora_" not in name
    }
    return {
        name: after[name].double() - value for name, value in before.items() if not torch.equal(after[name], value)
    }
