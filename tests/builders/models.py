"""Base models and fine-tuned ones: tiny, by the libraries that people use, and plain files of matrices.

Nothing is downloaded. The libraries take seconds to import, so each function imports its own.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TARGETS = ("q_proj", "down_proj")


def llama(*, dtype: str = "float32", seed: int = 0) -> PreTrainedModel:
    """A language model of two blocks, 100,000 parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=96,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(getattr(torch, dtype))


def gpt2(*, seed: int = 0) -> PreTrainedModel:
    """A model of Conv1D layers, which keep inputs × outputs."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=80, n_positions=32))


def saved(model: PreTrainedModel, folder: Path, *, shard: str = "5GB") -> Path:
    """As `save_pretrained` writes it, cut into shards of at most so much."""
    with quiet():
        model.save_pretrained(folder, max_shard_size=shard)
    return folder


def merged(model: PreTrainedModel, folder: Path, *, rank: int = 4, shard: str = "5GB", **config: Any) -> Path:
    """The model with a LoRA of peft's merged into it, by its `merge_and_unload`."""
    from peft import LoraConfig, get_peft_model

    targets = config.pop("target_modules", list(TARGETS))
    wanted = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, init_lora_weights=False, **config)
    with quiet():
        return saved(get_peft_model(model, wanted).merge_and_unload(), folder, shard=shard)


def matrices(path: Path, *, seed: int = 0, count: int = 4, side: int = 96, scale: float = 0.02) -> dict[str, Any]:
    """A plain file of square matrices, and what is in it."""
    rng = np.random.default_rng(seed)
    layers = {
        f"model.layers.{index}.proj.weight": (scale * rng.standard_normal((side, side))).astype(np.float32)
        for index in range(count)
    }
    save_file(layers, path)
    return layers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Progress bars of the libraries are nobody's here, and what they warn of is not what is tested."""
    import warnings

    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
