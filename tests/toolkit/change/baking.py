"""Models to merge into, adapters by PEFT, and baking them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import lorakit

Tensors = dict[str, torch.Tensor]


def llama(*, tied: bool = False) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=1, attention_bias=True, tie_word_embeddings=tied,
        )
    )  # fmt: skip


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2))


def quiet(work: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return work()


def tuned(model: Any, config: Any, folder: Path, seed: int = 0) -> Any:
    """The model under PEFT with random factors, and its adapter in `folder`."""
    made = quiet(lambda: get_peft_model(deepcopy(model), deepcopy(config)))
    torch.manual_seed(seed)
    for name, weight in made.named_parameters():
        if weight.requires_grad:
            weight.data = weight.data * (1 + torch.rand_like(weight)) if "magnitude" in name else (
                torch.randn_like(weight) * 0.2
            )  # fmt: skip
    quiet(lambda: made.save_pretrained(folder))
    return made


def merged(made: Any) -> Tensors:
    found: Tensors = quiet(made.merge_and_unload).state_dict()
    return found


def under(model: Any, folder: Path) -> Any:
    """The model under PEFT with the adapter of a folder."""
    return quiet(lambda: PeftModel.from_pretrained(model, folder))


def saved(model: Any, folder: Path, *, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    model.to(dtype).save_pretrained(folder, **options)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def bake(paths: Any, base: Path, output: Path, **options: Any) -> dict[str, Any]:
    before = snapshot(base)
    found = lorakit.bake(paths, base, output, **options)
    assert found["is_valid"]
    assert found["written"]
    assert snapshot(base) == before
    return found


def snapshot(path: Path) -> dict[str, tuple[int, int]]:
    places = [path] if path.is_file() else [place for place in path.rglob("*") if place.is_file()]
    return {os.fspath(place): (place.stat().st_size, place.stat().st_mtime_ns) for place in places}


def assert_close(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], step: float) -> None:
    """Within a step of rounding of the largest value of each layer."""
    assert found.keys() >= expected.keys()
    for name, values in expected.items():
        wanted, one = values.double(), found[name].double()
        assert one.shape == wanted.shape
        assert (one - wanted).abs().max() <= step * wanted.abs().max(), name


TARGETS = ["q_proj", "v_proj", "down_proj"]
CONFIGS: dict[str, Any] = {
    "lora": LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS),
    "dora": LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, use_dora=True),
    "bias": LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], lora_bias=True),
    "trained biases": LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], bias="lora_only"),
    "embedding": LoraConfig(r=4, lora_alpha=6, target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "whole modules": LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "loha": LoHaConfig(r=4, alpha=6, target_modules=TARGETS),
}
