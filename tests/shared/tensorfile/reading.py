"""Reading layers back through a container's arrangement, and what torch says they must be."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

import torch

from loracore.tensorfile import Container, Layer, Source, open_container
from loracore.tensorfile.strided import gather
from loracore.tensorfile.ziprecords import record_start

Read = dict[str, tuple[str, tuple[int, ...], bytes]]

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
    torch.complex64: "C64", torch.complex128: "C128",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float4_e2m1fn_x2: "F4",
}  # fmt: skip


def every_dtype() -> dict[str, torch.Tensor]:
    """A 3 × 4 tensor of every element type that safetensors has a name for, none of its bytes alike."""
    tensors = {}
    for dtype, name in NAMES.items():
        raw = torch.arange(12 * dtype.itemsize, dtype=torch.uint8).reshape(3, -1) + len(name)
        tensors[f"layer.{name}"] = raw % 2 == 0 if dtype is torch.bool else raw.view(dtype)
    return tensors


def save(path: str, value: object, *, legacy: bool = False) -> str:
    """`torch.save` in either form; returns `path`."""
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def record(value: object, *, legacy: bool = False) -> bytes:
    """The bytes that `torch.save` writes."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def places(source: Source, container: Container) -> list[tuple[Layer, int, int]]:
    """Each layer with the file's range that its elements lie in, in layout order."""
    found = []
    arrangement = container.arrangement
    for index, layer in enumerate(container.layout.layers):
        start = container.base + arrangement.offsets[index]
        if arrangement.records:
            start += record_start(source, arrangement.records[index])
        strides = arrangement.strided.get(index)
        found.append((layer, start, strides.storage_bytes if strides else layer.nbytes))
    return found


def read_layers(path: str, *, chunk: int = 1 << 20) -> Read:
    """Every layer's dtype, shape and bytes, read where the container says that they lie."""
    container = open_container(path)
    read: Read = {}
    with open(path, "rb") as file:
        source = Source(file.fileno(), os.fstat(file.fileno()).st_size)
        for index, (layer, start, length) in enumerate(places(source, container)):
            strides = container.arrangement.strided.get(index)
            if strides is None:
                data = source.read(start, length)
            else:
                pieces = list(gather(source, start, layer, strides, chunk))
                assert all(len(piece) <= chunk for piece in pieces)
                data = b"".join(pieces)
            read[layer.name] = (layer.dtype, layer.shape, data)
    return read


def expected(tensors: Mapping[str, Any]) -> Read:
    """What `read_layers` must give for these tensors."""
    read: Read = {}
    for name, tensor in tensors.items():
        dtype = NAMES[tensor.dtype]
        flat = tensor.detach().contiguous()
        raw = flat.as_strided((flat.numel(),), (1,)).view(torch.uint8)
        shape = tuple(tensor.shape)
        if dtype == "F4":
            shape = (*shape[:-1], 2 * shape[-1])
        read[name] = (dtype, shape, bytes(raw.tolist()))
    return read
