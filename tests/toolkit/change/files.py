"""Small LoRAs for changes, and what they add to a model, formed densely in double precision."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from loracore.adapter import read_adapter
from tests.builders import real

Doubles = NDArray[np.float64]
#: Names that kohya gives modules of SD1.5, in three blocks.
NAMES = (
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_k",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v",
    "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
    "lora_te_text_model_encoder_layers_3_self_attn_q_proj",
)


def kohya(
    path: Path,
    seed: int = 0,
    *,
    rank: int = 8,
    alpha: float | None = 4.0,
    sides: tuple[int, int] = (24, 20),
    names: tuple[str, ...] = NAMES,
    dtype: Any = np.float32,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """A kohya file whose singular values fall, with a 3 × 3 convolution and a Tucker one beside the matrices."""
    rng = np.random.default_rng(seed)
    layers: dict[str, NDArray[Any]] = {}
    falling = 1 / np.arange(1, rank + 1)
    rows, columns = sides
    for name in names:
        layers[f"{name}.lora_down.weight"] = rng.standard_normal((rank, columns))
        layers[f"{name}.lora_up.weight"] = rng.standard_normal((rows, rank)) * falling
    conv, tucker = (f"lora_unet_down_blocks_0_resnets_{n}_conv1" for n in range(2))
    layers[f"{conv}.lora_down.weight"] = rng.standard_normal((rank, 6, 3, 3))
    layers[f"{conv}.lora_up.weight"] = (rng.standard_normal((rows, rank)) * falling)[:, :, None, None]
    layers[f"{tucker}.lora_down.weight"] = rng.standard_normal((rank, 6, 1, 1))
    layers[f"{tucker}.lora_mid.weight"] = rng.standard_normal((rank, rank, 3, 3))
    layers[f"{tucker}.lora_up.weight"] = (rng.standard_normal((rows, rank)) * falling)[:, :, None, None]
    layers = {name: values.astype(dtype) for name, values in layers.items()}
    if alpha is not None:
        layers |= {f"{name}.alpha": np.array(alpha, dtype) for name in (*names, conv, tucker)}
    save_file({name: np.array(values, order="C") for name, values in layers.items()}, path, metadata)
    return path


def by_lycoris(folder: Path, algorithm: str) -> Path:
    """A file by LyCORIS's own writer, with weights that matter; training starts at ΔW = 0."""
    (path,) = [Path(name) for name in real.by_lycoris(str(folder)) if algorithm in os.path.basename(name)]
    rng = np.random.default_rng(0)
    layers = load_file(path)
    for name, values in layers.items():
        if not name.endswith(".alpha"):
            layers[name] = rng.standard_normal(values.shape).astype(np.float16)
    save_file(layers, path)
    return path


def deltas(path: Path | str) -> dict[str, Doubles]:
    """ΔW of each module as a matrix, by name."""
    with read_adapter(str(path)) as adapter:
        return {
            module.name: module.delta(np.float64).reshape(module.shape[0], -1)
            for module in adapter.modules
            if module.algorithm not in {"norm", "full"}
        }


def cut(delta: Doubles, rank: int) -> Doubles:
    """The nearest matrix of this rank, by numpy's dense SVD."""
    left, values, right = np.linalg.svd(delta, full_matrices=False)
    cut_off: Doubles = (left[:, :rank] * values[:rank]) @ right[:rank]
    return cut_off


def distance(found: Mapping[str, Doubles], wanted: Mapping[str, Doubles]) -> float:
    """‖found - wanted‖ / ‖wanted‖ over all modules."""
    assert found.keys() == wanted.keys()
    apart = sum(float(np.square(found[name] - wanted[name]).sum()) for name in wanted)
    return float((apart / sum(float(np.square(values).sum()) for values in wanted.values())) ** 0.5)
