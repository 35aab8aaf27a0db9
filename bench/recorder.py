"""Writes a corpus's files and notes what each of them is, so that the truth is known by construction."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tests.builders.architectures import LayerSpec
from tests.builders.weights import ITEM_SIZE, Layers
from tests.builders.write import (
    library_order,
    save_checkpoint,
    write_peft_folder,
    write_safetensors,
    write_sparse,
)

from bench.truth import Member

Specs = Sequence[LayerSpec]


class Recorder:
    """Writes files under `folder`. Each method takes a path inside it and the identity of the weights."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.members: list[Member] = []

    def safetensors(
        self,
        name: str,
        layers: Layers,
        weights: str,
        *,
        metadata: Mapping[str, str] | None = None,
        order: Sequence[str] | None = None,
        late: int = 0,
    ) -> Member:
        path = write_safetensors(self._place(name), layers, metadata=metadata, order=order)
        return self._note(path, _specs(layers), weights, late)

    def checkpoint(
        self, name: str, layers: Layers, weights: str, *, legacy: bool = False, nested: str | None = None
    ) -> Member:
        path = save_checkpoint(self._place(name), layers, legacy=legacy, nested=nested)
        return self._note(path, _specs(layers), weights)

    def peft_folder(self, name: str, layers: Layers, weights: str, *, rank: int, targets: Sequence[str]) -> Member:
        path = write_peft_folder(self._place(name), layers, rank=rank, targets=targets)
        return self._note(path, _specs(layers), weights)

    def copy_folder(self, name: str, original: Member) -> Member:
        """A copy of the whole folder that `original` lies in."""
        path = os.path.join(self._place(name), os.path.basename(original.path))
        shutil.copytree(os.path.dirname(original.path), os.path.dirname(path))
        self.members.append(replace(original, path=path))
        return self.members[-1]

    def sparse(
        self,
        name: str,
        specs: Specs,
        weights: str,
        *,
        metadata: Mapping[str, str] | None = None,
        pieces: Mapping[str, Mapping[int, bytes]] | None = None,
    ) -> Member:
        path = write_sparse(self._place(name), specs, metadata=metadata, pieces=pieces)
        return self._note(path, specs, weights)

    def copy(self, name: str, original: Member) -> Member:
        """A copy byte for byte, with its own blocks on the disk (no reflink)."""
        path = self._place(name)
        with open(original.path, "rb") as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target, 4 << 20)
        self.members.append(replace(original, path=path))
        return self.members[-1]

    def _place(self, name: str) -> str:
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def _note(self, path: str, specs: Specs, weights: str, late: int = 0) -> Member:
        data = sum(nbytes(spec) for spec in specs)
        header = os.path.getsize(path) - data
        member = Member(path, layout_of(specs), weights, content=path, header=header, data=data, late=late)
        self.members.append(member)
        return member


def nbytes(spec: LayerSpec) -> int:
    size = ITEM_SIZE[spec.dtype]
    for length in spec.shape:
        size *= length
    return size


def layout_of(specs: Specs) -> str:
    """A short identity of the sorted (name, dtype, shape) list."""
    return hashlib.sha256(repr(sorted(map(tuple, specs))).encode()).hexdigest()[:16]


def bytes_up_to(layers: Layers, name: str) -> int:
    """Bytes of the layers before `name` and of itself, in the library's order on disk."""
    total = 0
    for current in library_order(layers):
        total += len(layers[current][2])
        if current == name:
            return total
    raise KeyError(name)


def _specs(layers: Layers) -> list[LayerSpec]:
    return [LayerSpec(name, dtype, shape) for name, (dtype, shape, _) in layers.items()]
