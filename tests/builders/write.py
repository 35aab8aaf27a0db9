"""Writers with control over every byte: names, order, metadata, padding, container.

Those for safetensors need the standard library alone and write gigabytes at the disk's speed. Format:
https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from tests.builders.architectures import LayerSpec
from tests.builders.weights import ITEM_SIZE, Layers

if TYPE_CHECKING:
    import torch

Metadata = Mapping[str, str]

#: safetensors' own order of dtypes, widest first (`Dtype` in safetensors/src/tensor.rs, reversed).
_DTYPE_ORDER = (
    "U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16",
    "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL",
)  # fmt: skip

_TORCH_DTYPE = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "U16": "uint16", "U32": "uint32", "U64": "uint64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def library_order(layers: Layers) -> list[str]:
    """The names in the order in which the safetensors library lays out the bytes: by dtype, then name."""
    return sorted(layers, key=lambda name: (_DTYPE_ORDER.index(layers[name][0]), name))


def header(specs: Iterable[LayerSpec], metadata: Metadata | None = None, *, padding: int | None = None) -> bytes:
    """Length field and JSON header of a file whose layers lie in the order of `specs`.

    `padding` is the number of spaces after the JSON; None pads to a multiple of eight as the library does.
    """
    entries: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape in specs:
        begin, end = end, end + prod(shape) * ITEM_SIZE[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogateescape")
    text += b" " * (-len(text) % 8 if padding is None else padding)
    return len(text).to_bytes(8, "little") + text


def write_safetensors(
    path: str,
    layers: Layers,
    *,
    order: Sequence[str] | None = None,
    metadata: Metadata | None = None,
    padding: int | None = None,
    extra: bytes = b"",
) -> str:
    """Write `layers` with their bytes in `order` (default: as the library orders them) and return `path`.

    `extra` follows the last layer; no reader accepts it, which is what a test may want.
    """
    names = library_order(layers) if order is None else order
    specs = [LayerSpec(name, *layers[name][:2]) for name in names]
    with open(path, "wb", buffering=1 << 20) as file:
        file.write(header(specs, metadata, padding=padding))
        file.writelines(layers[name][2] for name in names)
        file.write(extra)
    return path


def write_sparse(
    path: str,
    specs: Sequence[LayerSpec],
    *,
    metadata: Metadata | None = None,
    pieces: Mapping[str, Mapping[int, bytes]] | None = None,
) -> str:
    """Write a header and leave the weights a hole (they read as zero), but for `pieces`.

    `pieces` maps a layer's name to {offset in the layer: bytes}. Layers lie in the order of `specs`.
    """
    start = header(specs, metadata)
    offsets, end = {}, len(start)
    for name, dtype, shape in specs:
        offsets[name], end = end, end + prod(shape) * ITEM_SIZE[dtype]
    with open(path, "wb") as file:
        file.write(start)
        for name, parts in (pieces or {}).items():
            for offset, data in parts.items():
                file.seek(offsets[name] + offset)
                file.write(data)
        file.truncate(end)
    return path


def write_peft_folder(
    folder: str,
    layers: Layers,
    *,
    rank: int,
    targets: Sequence[str],
    base: str = "meta-llama/Meta-Llama-3-8B",
    **fields: object,
) -> str:
    """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT does; return the former's path.

    `fields` of the configuration are as given: a scale of 2 and nothing special where none is.
    """
    os.makedirs(folder, exist_ok=True)
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": list(targets),
        "task_type": "CAUSAL_LM",
        **fields,
    }
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
    weights = os.path.join(folder, "adapter_model.safetensors")
    return write_safetensors(weights, layers, metadata={"format": "pt"})


def save_checkpoint(path: str, layers: Layers, *, legacy: bool = False, nested: str | None = None) -> str:
    """`torch.save` of the layers: as zip or in the older `legacy` form, under the key `nested` if given."""
    import torch

    tensors = {name: tensor(dtype, shape, data) for name, (dtype, shape, data) in layers.items()}
    content = tensors if nested is None else {nested: tensors, "epoch": 3, "global_step": 1200}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def tensor(dtype: str, shape: tuple[int, ...], data: bytes) -> torch.Tensor:
    """A torch tensor that owns a copy of `data`."""
    import torch

    kind = getattr(torch, _TORCH_DTYPE[dtype])
    if not data:
        return torch.empty(shape, dtype=kind)
    # A bytearray, since torch warns about memory that it must not write to.
    return torch.frombuffer(bytearray(data), dtype=kind).reshape(shape)
