"""A base model in another dtype: all its floats, and what its settings say of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from loracore.errors import FileError
from loracore.jobs.change import Stored
from loracore.tensorfile import Layer
from loracore.whole import regular
from lorakit.jobs.bake.base import WeightFile
from lorakit.output.rounding import DTYPES, FLOATS, stored

#: Entries of a layer that are cast at once.
_BLOCK = 1 << 20
#: What Transformers calls it in `config.json`, now and before version 5.
_SETTINGS = ("dtype", "torch_dtype")
_DOCUMENT = msgspec.json.Decoder(dict[str, Any])


def recast(layers: Mapping[str, Layer], dtype: Stored | None) -> dict[str, Layer]:
    """The layers as they are written: floats in `dtype`, the rest as it is."""
    if dtype is None:
        return dict(layers)
    return {
        name: Layer(name, DTYPES[dtype], layer.shape) if layer.dtype in FLOATS else layer
        for name, layer in layers.items()
    }


def casting(
    file: WeightFile, target: Layer, give: Callable[[str, bytes | memoryview, int], None], remedy: str
) -> Callable[[], int]:
    """A step that writes a layer in its new dtype, some rows at a time; it returns the bytes that it read."""

    def cast() -> int:
        source = file.reader.layers[target.name]
        whole = np.float64 if source.dtype == "F64" else np.float32
        if not target.shape:
            give(target.name, stored(file.reader.read(target.name, whole), target.dtype, target.name, remedy), 0)
            return source.nbytes
        rows = target.shape[0]
        size = target.nbytes // max(1, rows)
        height = max(1, _BLOCK * rows // max(1, int(np.prod(target.shape))))
        for start in range(0, rows, height):
            values = file.reader.read_rows(target.name, start, min(rows, start + height), whole)
            give(target.name, stored(values, target.dtype, target.name, remedy), start * size)
        if not rows:
            give(target.name, b"", 0)
        return source.nbytes

    return cast


def settings(path: bytes, dtype: Stored) -> bytes:
    """A `config.json` that says the new dtype where it said the old one. Raises FileError."""
    found = _read(path)
    for key in _SETTINGS:
        if key in found:
            found[key] = dtype
    return _encoded(found)


def index(path: bytes, sizes: Mapping[str, int], renamed: Callable[[bytes], bytes]) -> bytes:
    """An index of shards with their new names and sum of bytes; `sizes`: by layer. Raises FileError."""
    found = _read(path)
    try:
        files = {layer: os.fsdecode(renamed(os.fsencode(file))) for layer, file in found["weight_map"].items()}
        size = sum(sizes.get(layer, 0) for layer in files)
        found["weight_map"] = files
        found["metadata"] = {**found.get("metadata", {}), "total_size": size}
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"its index cannot be read: {error}", os.fsdecode(path)) from error
    return _encoded(found)


def _read(path: bytes) -> dict[str, Any]:
    try:
        with open(path, "rb", opener=regular) as file:
            return _DOCUMENT.decode(file.read())
    except (OSError, msgspec.DecodeError) as error:
        raise FileError(f"it cannot be read: {error}", os.fsdecode(path)) from error


def _encoded(document: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2)
