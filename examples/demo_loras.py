"""Two made-up LoRAs for the notebooks, with the names of SD1.5's modules and a quarter of their widths.

Their factors are random, but strengths and spectra are shaped as training shapes them: a few directions carry most
of a module's ΔW, and some blocks learn more than others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_WIDTHS = (80, 160, 320)
_PLACES = (
    *((f"down_blocks_{block}_attentions_{place}", _WIDTHS[block]) for block in (0, 1, 2) for place in (0, 1)),
    ("mid_block_attentions_0", _WIDTHS[2]),
    *((f"up_blocks_{block}_attentions_{place}", _WIDTHS[3 - block]) for block in (1, 2, 3) for place in (0, 1, 2)),
)
_TEXT = 192


def make(folder: str, rank: int = 8) -> tuple[str, str]:
    """Write `watercolour.safetensors` and `clockmaker.safetensors` into `folder`: a style and a person."""
    style = os.path.join(folder, "watercolour.safetensors")
    person = os.path.join(folder, "clockmaker.safetensors")
    _write(style, rank, 1, {"up_blocks_2": 2.5, "up_blocks_3": 4.0, "ff": 1.5})
    _write(person, rank, 2, {"mid_block": 3.0, "down_blocks_2": 2.0, "attn2": 3.0})
    return style, person


def _modules() -> Iterator[tuple[str, int, int]]:
    """Name, rows and columns of each weight."""
    for place, width in _PLACES:
        block = f"lora_unet_{place}_transformer_blocks_0"
        for attention, context in (("attn1", width), ("attn2", _TEXT)):
            for name, columns in (("to_q", width), ("to_k", context), ("to_v", context), ("to_out_0", width)):
                yield f"{block}_{attention}_{name}", width, columns
        yield f"{block}_ff_net_0_proj", 8 * width, width
        yield f"{block}_ff_net_2", width, 4 * width


def _write(path: str, rank: int, seed: int, strengths: dict[str, float]) -> None:
    rng = np.random.default_rng(seed)
    layers: dict[str, NDArray[np.float16]] = {}
    for name, rows, columns in _modules():
        strength = 0.02 * np.prod([value for part, value in strengths.items() if part in name])
        # Each direction is weaker than the one before, by a quarter to a half.
        decay = rng.uniform(0.5, 0.75) ** np.arange(rank)
        up = rng.standard_normal((rows, rank)) * (strength * decay) / np.sqrt(rows)
        layers[f"{name}.lora_up.weight"] = up.astype("<f2")
        layers[f"{name}.lora_down.weight"] = rng.standard_normal((rank, columns)).astype("<f2")
        layers[f"{name}.alpha"] = np.array(rank, "<f2")
    _save(path, layers, {"ss_network_module": "networks.lora", "ss_network_dim": str(rank)})


def _save(path: str, layers: dict[str, NDArray[np.float16]], metadata: dict[str, str]) -> None:
    """As safetensors: the length of the header, the header, and the bytes of all layers."""
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, values in layers.items():
        start, end = end, end + values.nbytes
        header[name] = {"dtype": "F16", "shape": values.shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(map(np.ndarray.tobytes, layers.values())))
