"""LoRAs with singular values that fall as those of trained ones, and what numpy says of them, done naively."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.builders.architectures import LayerSpec

Doubles = NDArray[np.float64]


def trained(path: Path, specs: Sequence[LayerSpec], *, seed: int = 0, alpha: float = 2.0) -> bytes:
    """Write kohya's or PEFT's layers as training leaves them: A uniform, B's columns of different strength."""
    rng = np.random.default_rng(seed)
    layers: dict[str, NDArray[Any]] = {}
    for name, _, shape in specs:
        if name.endswith(".alpha"):
            layers[name] = np.array(alpha, np.float16)
        elif "down" in name or "lora_A" in name:
            layers[name] = (rng.uniform(-1, 1, shape) / shape[1] ** 0.5).astype(np.float16)
        else:
            strength = 1 / np.arange(1, shape[1] + 1)
            layers[name] = np.moveaxis(
                rng.normal(0, 0.05, (shape[0], *shape[2:], shape[1])) * strength, -1, 1
            ).astype(np.float16)
    save_file(layers, path)
    return str(path).encode()


def naive(path: bytes, *, alpha: float = 2.0) -> dict[str, tuple[Doubles, Doubles, Doubles]]:
    """ΔW, A and B of each module of a kohya file, formed as they are written down; by the module's key."""
    layers = {name: values.astype(np.float64) for name, values in load_file(path.decode()).items()}
    found = {}
    for name, down in layers.items():
        if name.endswith(".lora_down.weight"):
            key = name.removesuffix(".lora_down.weight")
            up = layers[f"{key}.lora_up.weight"]
            inner, outer = down.reshape(len(down), -1), up.reshape(len(up), -1)
            found[key] = (alpha / len(down) * outer @ inner, inner, outer)
    return found
