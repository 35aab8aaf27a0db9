"""How far two arrays are apart, and files made in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from loracore.adapter import Adapter, Module, read_adapter


def apart(found: NDArray[Any], expected: torch.Tensor | NDArray[Any]) -> float:
    """Norm of the difference over norm of what is expected; shapes but for the kernel must agree."""
    wanted = expected.detach().double().numpy() if isinstance(expected, torch.Tensor) else expected
    assert found.size == wanted.size
    assert found.shape[0] == wanted.shape[0]
    norm = float(np.linalg.norm(wanted))
    assert norm > 0, "a reference of zero proves nothing"
    return float(np.linalg.norm(found.reshape(wanted.shape) - wanted)) / norm


def write(path: str, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> str:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    return path


def read(path: str, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Adapter:
    """The adapter that a file with these tensors is."""
    return read_adapter(write(path, tensors, metadata))


def by_key(adapter: Adapter) -> dict[str, Module]:
    return {module.key: module for module in adapter.modules}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
