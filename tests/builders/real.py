"""Files by the libraries that people really use, on tiny modules that are made here: nothing is downloaded.

Each function writes into `folder` and returns the paths of the weight files. The weights depend on `seed`
alone. The libraries take seconds to import, so each function imports its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

#: LyCORIS's algorithms that it can apply to linear layers and convolutions alike.
LYCORIS_ALGORITHMS = ("locon", "loha", "lokr")


def by_peft(folder: str, *, safetensors: bool = True, seed: int = 0, **fields: Any) -> list[str]:
    """`PeftModel.save_pretrained` of a tiny attention block: the weights and `adapter_config.json`.

    `fields` are more of its `LoraConfig`.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    usual = {"r": 4, "lora_alpha": 8, "target_modules": ["to_q", "to_v"], "init_lora_weights": False}
    config = LoraConfig(**usual | fields)
    model = get_peft_model(attention(), config)
    model.save_pretrained(folder, safe_serialization=safetensors)
    return [os.path.join(folder, "adapter_model.safetensors" if safetensors else "adapter_model.bin")]


def by_lycoris(folder: str, *, seed: int = 0) -> list[str]:
    """`LycorisNetwork.save_weights`, one file for each of `LYCORIS_ALGORITHMS`."""
    import torch
    from lycoris import LycorisNetwork, create_lycoris

    LycorisNetwork.apply_preset({"enable_conv": True, "target_module": ["Sequential"]})
    paths = []
    for algorithm in LYCORIS_ALGORITHMS:
        torch.manual_seed(seed)
        network = create_lycoris(nested_attention(), 1.0, linear_dim=2, linear_alpha=1.0, algo=algorithm)
        network.apply_to()
        paths.append(os.path.join(folder, f"{algorithm}.safetensors"))
        network.save_weights(paths[-1], torch.float16, {"ss_network_module": "lycoris.kohya"})
    return paths


def by_diffusers(folder: str, *, seed: int = 0, config: dict[str, object] | None = None) -> list[str]:
    """`save_lora_weights` of diffusers' Stable Diffusion loader, in both of its containers.

    `config` is the UNet's `LoraConfig` as a dict, which goes into the header of the first.
    """
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin

    layers: dict[str, nn.Module | Tensor] = {**lora_tensors(seed)}
    paths = []
    for name, safe in (("pytorch_lora_weights.safetensors", True), ("pytorch_lora_weights.bin", False)):
        StableDiffusionLoraLoaderMixin.save_lora_weights(
            folder, unet_lora_layers=layers, weight_name=name, safe_serialization=safe,
            unet_lora_adapter_metadata=config if safe else None,
        )  # fmt: skip
        paths.append(os.path.join(folder, name))
    return paths


def by_safetensors(folder: str, *, seed: int = 0) -> list[str]:
    """`safetensors.torch.save_file`, with metadata."""
    from safetensors.torch import save_file

    path = os.path.join(folder, "library.safetensors")
    save_file(lora_tensors(seed), path, metadata={"format": "pt", "ss_network_dim": "4"})
    return [path]


def by_torch(folder: str, *, seed: int = 0) -> list[str]:
    """`torch.save`: the zip container, the legacy one, and a training checkpoint with a nested state dict."""
    import torch

    layers = lora_tensors(seed)
    paths = [os.path.join(folder, name) for name in ("zip.pt", "legacy.pt", "training.ckpt")]
    torch.save(layers, paths[0])
    torch.save(layers, paths[1], _use_new_zipfile_serialization=False)
    torch.save({"state_dict": layers, "epoch": 3, "global_step": 1200}, paths[2])
    return paths


def lora_tensors(seed: int = 0, rank: int = 4) -> dict[str, Tensor]:
    """The factors of a tiny UNet block's LoRA under diffusers' names, of several dtypes."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for part, dtype in (("to_q", torch.float16), ("to_k", torch.bfloat16), ("to_v", torch.float32)):
        root = f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.{part}.lora"
        layers[f"{root}.down.weight"] = torch.randn(rank, 32, generator=generator).to(dtype)
        layers[f"{root}.up.weight"] = torch.randn(32, rank, generator=generator).to(dtype)
    return layers


def attention(width: int = 32) -> nn.Module:
    """A module with the parts of an attention block."""
    from torch import nn

    return nn.ModuleDict({name: nn.Linear(width, width) for name in ("to_q", "to_k", "to_v", "to_out")})


def nested_attention(width: int = 64) -> nn.Module:
    """Two linear layers and two convolutions (1 × 1, 3 × 3), inside a container that LyCORIS looks into."""
    from torch import nn

    inner = nn.Sequential(
        nn.Linear(width, width),
        nn.Linear(width, 2 * width),
        nn.Conv2d(width, width, 1),
        nn.Conv2d(width, width, 3),
    )
    return nn.ModuleDict({"down_blocks": inner})
