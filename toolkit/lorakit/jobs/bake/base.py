"""A base model: its weight files, their layers by component, and the files beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from loracore.adapter.reading import TensorReader
from loracore.errors import UsageError
from loracore.tensorfile import SUFFIXES, Layer
from loracore.whole import regular
from lorakit.models import shards
from lorakit.output.rounding import FLOATS

#: Other forms of the same weights, which would be the old ones.
_OTHER_WEIGHTS = (
    *SUFFIXES, b".msgpack", b".h5", b".onnx", b".onnx_data", b".gguf", b".ot", b".tflite", b".pb",
)  # fmt: skip
#: An adapter beside a model would be applied once more by whoever loads the result.
_NOT_COPIED = frozenset({b"adapter_config.json"})
#: Folders below a model's that are looked into: a component's, and one in it.
_DEPTH = 2
#: Ends of the names of layers that say how a quantised weight is to be read.
_QUANTISED = (
    ".weight_scale", ".scale_weight", ".weight_scale_inv", ".quant_state", ".absmax", ".SCB", ".qweight",
    ".qzeros", ".weight_packed",
)  # fmt: skip


class Place(NamedTuple):
    """A layer of the base: in which of its files, and what it is called there."""

    file: int
    layer: Layer


@dataclass(frozen=True)
class WeightFile:
    """An open weight file. `name`: its path below the model's folder; empty where the model is one file."""

    reader: TensorReader
    name: bytes
    component: str


@dataclass(frozen=True)
class Base:
    """An open base model. `layers`: by component (the folder's name, or nothing) and name."""

    path: bytes
    is_folder: bool
    files: tuple[WeightFile, ...]
    layers: Mapping[str, Mapping[str, Place]]
    config: Mapping[str, Any]
    warnings: tuple[str, ...]

    def check_unchanged(self) -> None:
        """Raises ChangedFile where a weight file is not what it was when it was opened."""
        for file in self.files:
            file.reader.check_unchanged()


@contextmanager
def opened_base(path: bytes) -> Iterator[Base]:
    """The model at `path`: a file, a Transformers folder or a diffusers folder.

    Raises FileError, and UsageError for one that is quantised.
    """
    found = shards.find(path)
    is_folder = os.path.isdir(path)
    config = _config(path) if is_folder else {}
    _refuse_quantised_config(path, config, is_folder)
    with ExitStack() as stack:
        files: list[WeightFile] = []
        layers: dict[str, dict[str, Place]] = {}
        for shard in found.shards:
            reader = TensorReader(shard.path, os.fsdecode(shard.path))
            stack.callback(reader.close)
            name = os.path.relpath(shard.path, path) if is_folder else b""
            own = layers.setdefault(shard.component, {})
            for layer in reader.layers.values():
                if layer.name in own:
                    other = files[own[layer.name].file].reader.shown
                    raise UsageError(f"{reader.shown}: {os.path.basename(other)} has the same layers; remove one")
                own[layer.name] = Place(len(files), layer)
            files.append(WeightFile(reader, name, shard.component))
        yield Base(path, is_folder, tuple(files), layers, config, found.warnings)


def refuse_quantised(base: Base, component: str, layer: Layer) -> str | None:
    """Why a layer cannot be merged into, or None."""
    if layer.dtype not in FLOATS:
        return f"its weight in the base is {layer.dtype}, no float; bake into the model that it was quantised from"
    stem = layer.name.removesuffix(".weight")
    if any(stem + end in base.layers[component] for end in _QUANTISED):
        return "its weight in the base is quantised with a scale; bake into the model that it was made from"
    return None


def _config(folder: bytes, name: bytes = b"config.json") -> dict[str, Any]:
    try:
        with open(os.path.join(folder, name), "rb", opener=regular) as file:
            found = json.loads(file.read(1 << 22))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse_quantised_config(path: bytes, config: Mapping[str, Any], is_folder: bool) -> None:
    configs = {path: config}
    if is_folder:
        folders = [entry.path for entry in os.scandir(path) if entry.is_dir()]
        configs |= {folder: _config(folder) for folder in folders}
    for folder, each in configs.items():
        quantised = each.get("quantization_config")
        if quantised:
            method = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
            raise UsageError(
                f"{os.fsdecode(folder)}: it is quantised ({str(method)[:40] or 'config.json'}); "
                "bake into the model that it was made from, and quantise the result"
            )


def files_beside(base: Base) -> tuple[list[bytes], list[bytes]]:
    """Files of a model's folder that belong to the result as they are, and weights that are left out.

    Names are paths below the folder. Hidden files are no part of a model.
    """
    ours = {file.name for file in base.files}
    kept: list[bytes] = []
    left: list[bytes] = []
    for name in _walk(base.path, b"", _DEPTH):
        file = os.path.basename(name)
        if name in ours or file in _NOT_COPIED:
            continue
        index = file.endswith(b".json") and b".index." in file
        if file.lower().endswith(_OTHER_WEIGHTS) or (index and not _indexes(name, ours)):
            left.append(name)
        else:
            kept.append(name)
    return kept, left


def _indexes(name: bytes, ours: set[bytes]) -> bool:
    """Whether an index is that of the weight files that are baked."""
    folder, suffix = os.path.dirname(name), b".safetensors" if b".safetensors." in name else b".bin"
    return any(os.path.dirname(each) == folder and each.endswith(suffix) for each in ours)


def _walk(root: bytes, below: bytes, depth: int) -> Iterator[bytes]:
    for entry in sorted(os.scandir(os.path.join(root, below)), key=lambda entry: entry.name):
        name = os.path.join(below, entry.name)
        if entry.name.startswith(b"."):
            continue
        if entry.is_file():
            yield name
        elif entry.is_dir() and depth:
            yield from _walk(root, name, depth - 1)
