"""The plain way: load every tensor of every file, SHA-256 them in order of name, group what is equal.

`python bench/load_everything.py FOLDER` prints JSON: `duplicates`, a list of lists of paths; `files`,
`failed` and `mapped_bytes`, those that no read call returned. It is what a careful user writes in an
afternoon, and what `loractl scan` is measured against.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import defaultdict
from typing import Any

import torch
from safetensors import safe_open

CHECKPOINTS = (".pt", ".pth", ".bin", ".ckpt")


def main(folder: str) -> None:
    groups: dict[str, list[str]] = defaultdict(list)
    failed: dict[str, str] = {}
    mapped = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.islink(path) or not name.endswith((".safetensors", *CHECKPOINTS)):
                continue
            try:
                digest, size = digest_of(path)
            except Exception as error:
                failed[path] = str(error)
                continue
            groups[digest].append(path)
            # safetensors maps the file, torch.load reads it.
            mapped += size if name.endswith(".safetensors") else 0
    duplicates = [sorted(paths) for paths in groups.values() if len(paths) > 1]
    files = sum(map(len, groups.values()))
    json.dump({"duplicates": duplicates, "files": files, "failed": failed, "mapped_bytes": mapped}, sys.stdout)


def digest_of(path: str) -> tuple[str, int]:
    """SHA-256 over name, dtype, shape and bytes of every tensor, by name; and the number of those bytes."""
    digest = hashlib.sha256()
    size = 0
    tensors = load(path)
    for name in sorted(tensors):
        tensor = tensors[name]
        data = tensor.contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode("utf-8", "surrogateescape"))
        digest.update(data.numpy().data)
        size += data.numel()
    return digest.hexdigest(), size


def load(path: str) -> dict[str, torch.Tensor]:
    if path.endswith(".safetensors"):
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors_of(torch.load(path, map_location="cpu", weights_only=True))


def tensors_of(content: Any) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, also where they lie one level down (`state_dict`)."""
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if tensors:
        return tensors
    nested = [value for value in content.values() if isinstance(value, dict)]
    return tensors_of(nested[0]) if nested else {}


if __name__ == "__main__":
    main(sys.argv[1])
