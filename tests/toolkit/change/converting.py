"""Files to convert, converting them, and what their ΔW is."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lorakit
from loracore.adapter import read_adapter
from tests.toolkit.change.libraries import clip, kohya, save, unet

#: What float16 factors, whose products are summed in single precision, may differ by.
CLOSE = 1e-6


def convert(path: Path, output: Path, to: Any = None, **options: Any) -> dict[str, Any]:
    found = lorakit.convert(path, output, to=to, **options)
    assert found["is_valid"]
    assert found["written"]
    return found


def deltas(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """ΔW of each module, by component and name, as our own reader has it."""
    with read_adapter(os.fspath(path)) as adapter:
        assert not [problem for problem in adapter.problems if problem.level == "error"]
        return {f"{module.component}:{module.name}": module.delta(np.float64) for module in adapter.modules}


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any], within: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        wanted = np.asarray(values, np.float64)
        assert np.linalg.norm(wanted) > 0
        one = np.asarray(found[name], np.float64).reshape(wanted.shape)
        assert np.linalg.norm(one - wanted) <= within * np.linalg.norm(wanted), name


def original(name: str) -> str:
    """The original SDXL name of a module of diffusers' UNet with three levels."""
    side, block, kind, layer, rest = re.match(  # type: ignore[union-attr]
        r"(down|mid|up)_block(?:s\.(\d))?\.(attentions|resnets)\.(\d)\.(.*)", name
    ).groups()
    rest = {"conv1": "in_layers.2", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}.get(rest, rest)
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(layer)}.{rest}"
    number = 3 * int(block) + int(layer) + (side == "down")
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{int(kind == 'attentions')}.{rest}"


def texted(name: str) -> str:
    """CLIP's modules as they were called before transformers 5, which is what files have."""
    return name if name.startswith("text_model.") else f"text_model.{name}"


def sd15(folder: Path) -> Path:
    tensors = kohya(unet("sd15"), "lora_unet_") | kohya(clip(), "lora_te_", texted, seed=1)
    return save(
        folder / "sd15.safetensors", tensors, {"ss_output_name": "style", "ss_base_model_version": "sd_v1"}
    )


def sdxl(folder: Path) -> Path:
    tensors = kohya(unet("sdxl"), "lora_unet_", original) | kohya(clip(), "lora_te1_", texted, seed=1)
    return save(folder / "sdxl.safetensors", tensors | kohya(clip(projection=True), "lora_te2_", texted, seed=2))


def models(family: str) -> tuple[Any, dict[str, Any]]:
    texts = {"text_encoder": clip()} | ({"text_encoder_2": clip(projection=True)} if family == "sdxl" else {})
    return unet(family), texts


def flux_file(path: Path, *, blocks: bool = False) -> Path:
    """A file as sd-scripts writes it for a small Flux."""
    width, tensors = 32, {}
    sizes = {}
    for block in range(2):
        for stream in ("img", "txt"):
            root = f"double_blocks_{block}_{stream}"
            sizes |= {
                f"{root}_attn_qkv": (3 * width, width), f"{root}_attn_proj": (width, width),
                f"{root}_mlp_0": (4 * width, width), f"{root}_mlp_2": (width, 4 * width),
                f"{root}_mod_lin": (6 * width, width),
            }  # fmt: skip
        sizes[f"single_blocks_{block}_linear1"] = (7 * width, width)
        sizes[f"single_blocks_{block}_linear2"] = (width, 5 * width)
        sizes[f"single_blocks_{block}_modulation_lin"] = (3 * width, width)
    sizes |= {"final_layer_adaLN_modulation_1": (2 * width, width), "img_in": (width, 4), "txt_in": (width, 8)}
    generator = torch.Generator().manual_seed(0)
    for name, (out, inputs) in sizes.items():
        rank = 12
        up = torch.randn(out, rank, generator=generator)
        if blocks and name.endswith("qkv"):
            up *= torch.block_diag(*[torch.ones(width, 4)] * 3)
        tensors[f"lora_unet_{name}.lora_down.weight"] = torch.randn(rank, inputs, generator=generator).bfloat16()
        tensors[f"lora_unet_{name}.lora_up.weight"] = up.bfloat16()
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(3.0 if "qkv" in name else 6.0, dtype=torch.bfloat16)
    return save(path, tensors)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


ATTENTION = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DOTTED = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONVOLUTION = "down_blocks_0_resnets_0_conv1"


def small(path: Path, **changes: torch.Tensor | None) -> Path:
    """A kohya file of one linear module and one convolution of the small UNet."""
    tensors: dict[str, torch.Tensor | None] = {
        f"lora_unet_{ATTENTION}.lora_down.weight": randn(2, 8),
        f"lora_unet_{ATTENTION}.lora_up.weight": randn(8, 2, seed=1),
        f"lora_unet_{ATTENTION}.alpha": torch.tensor(1.0),
        f"lora_unet_{CONVOLUTION}.lora_down.weight": randn(2, 8, 3, 3, seed=2),
        f"lora_unet_{CONVOLUTION}.lora_up.weight": randn(8, 2, 1, 1, seed=3),
        f"lora_unet_{CONVOLUTION}.alpha": torch.tensor(1.0),
    }
    tensors |= {name.replace("LINEAR", f"lora_unet_{ATTENTION}").replace("CONV", f"lora_unet_{CONVOLUTION}"): value
                for name, value in changes.items()}  # fmt: skip
    return save(path, {name: value for name, value in tensors.items() if value is not None})


def save_peft(tuned: Any, folder: Path) -> None:
    """As PEFT saves an adapter, whose biases are not zero."""
    for name, weight in tuned.named_parameters():
        if name.endswith("lora_B.default.bias"):
            torch.nn.init.normal_(weight)
    tuned.save_pretrained(folder)


def llm(folder: Path, **options: Any) -> tuple[Path, Any]:
    """A language model's adapter as PEFT saves it, and the model."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    def model() -> Any:
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, attention_bias=True,
            )
        )  # fmt: skip

    given: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "down_proj"],
        "init_lora_weights": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_peft(get_peft_model(model(), LoraConfig(**(given | options))), folder)
    return folder, model
