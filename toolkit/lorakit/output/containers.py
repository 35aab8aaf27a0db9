"""Which container a result goes into, by the suffix of its name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from numpy.typing import NDArray

from loracore.errors import UsageError
from loracore.tensorfile import Layer
from lorakit.output import checkpoint, safetensors
from lorakit.output.draft import Draft

SAFETENSORS = ".safetensors"
CHECKPOINTS = (".pt", ".pth", ".bin", ".ckpt")


class Writer(Protocol):
    """Takes layers in any order, from any thread."""

    def give(self, name: str, values: NDArray[Any]) -> None:
        """Write a layer's values, rounded to its dtype."""

    def give_bytes(self, name: str, data: bytes | memoryview, start: int = 0) -> None:
        """Write a layer's bytes as they are, or some of them from `start` on."""

    def finish(self) -> None:
        """All layers are given: make it durable under its name."""


def container_of(path: bytes) -> str:
    """`safetensors` or `torch-zip`, by the suffix. Raises UsageError for any other."""
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    if suffix == SAFETENSORS:
        return "safetensors"
    if suffix in CHECKPOINTS:
        return "torch-zip"
    known = ", ".join((SAFETENSORS, *CHECKPOINTS))
    raise UsageError(f"{os.fsdecode(path)}: no container has this suffix; give -o a name that ends in {known}")


@contextmanager
def writing(
    path: bytes, layers: Sequence[Layer], metadata: Mapping[str, str], *, force: bool = False
) -> Iterator[Writer]:
    """A writer of the file `path`; nothing is there, and nothing is left, unless `finish` was called.

    Raises UsageError where something is there already, FileError where nothing can be written, MissingPackage.
    """
    make = safetensors.Writer if container_of(path) == "safetensors" else checkpoint.Writer
    with Draft(path, force=force) as draft:
        yield make(draft, layers, metadata)
