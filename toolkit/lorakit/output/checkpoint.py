"""A torch checkpoint: a state dict as `torch.save` writes it. All layers are in memory at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from loracore.errors import MissingPackage, UsageError
from loracore.tensorfile import Layer
from lorakit.output.draft import Draft, cannot
from lorakit.output.rounding import stored

_TORCH = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "U16": "uint16", "U32": "uint32", "U64": "uint64", "C64": "complex64", "C128": "complex128",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
#: Bytes below which a disk is full: torch writes in smaller pieces.
_FULL = 1 << 16


class Writer:
    """As that of `lorakit.output.safetensors`. A checkpoint has no place for metadata."""

    def __init__(self, draft: Draft, layers: Sequence[Layer], metadata: Mapping[str, str]) -> None:
        """Raises MissingPackage without torch, and UsageError for a dtype that it does not save."""
        try:
            import torch  # noqa: PLC0415 - takes a second
        except ModuleNotFoundError as error:
            raise MissingPackage("a .pt file needs torch: pip install torch, or give -o a .safetensors") from error
        for layer in layers:
            if layer.dtype not in _TORCH:
                raise UsageError(f"layer {layer.name[:200]!r} is {layer.dtype}; give -o a .safetensors")
        self._torch = torch
        self._draft = draft
        self._layers = {layer.name: layer for layer in layers}
        self._values = {
            layer.name: torch.empty(layer.shape, dtype=getattr(torch, _TORCH[layer.dtype])) for layer in layers
        }
        self._missing = set(self._layers)
        # The container needs some more, but a disk that cannot hold the weights is told of before the work.
        draft.reserve(sum(layer.nbytes for layer in layers))

    def give(self, name: str, values: NDArray[Any]) -> None:
        """Keep a layer. Raises UsageError where its dtype cannot hold the values."""
        layer = self._layers[name]
        assert values.shape == layer.shape, (name, values.shape, layer.shape)
        self.give_bytes(name, stored(values, layer.dtype, name))

    def give_bytes(self, name: str, data: bytes | memoryview, start: int = 0) -> None:
        """Keep a layer's bytes as they are, or some of them from `start` on."""
        if len(data):
            flat = self._values[name].reshape(-1).view(self._torch.uint8).numpy()
            flat.data[start : start + len(data)] = memoryview(data).cast("B")
        self._missing.discard(name)

    def finish(self) -> None:
        """Write it, and give the file its name. Raises FileError."""
        assert not self._missing, sorted(self._missing)[:5]
        try:
            with os.fdopen(os.dup(self._draft.fd), "wb") as file:
                self._torch.save(dict(sorted(self._values.items())), file)
        except (OSError, RuntimeError) as error:
            raise cannot(self._draft.shown, self._cause(error)) from error
        self._draft.finish()

    def _cause(self, error: OSError | RuntimeError) -> OSError:
        """Torch tells a full disk as a RuntimeError of its own, which says nothing of disks."""
        if isinstance(error, OSError):
            return error
        disk = os.fstatvfs(self._draft.fd)
        if disk.f_bavail * disk.f_frsize < _FULL:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return OSError(str(error).splitlines()[0])
