"""The adapters of a pipeline: one file for all of its models, or a PEFT folder for each.

PEFT's examples save a pipeline's adapters into folders with the pipeline's names: `unet`, `text_encoder` …
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from loracore.adapter import Adapter, Module, read_adapter
from loracore.errors import MalformedFile
from loracore.tensorfile.peft import weight_file

#: Folders of a pipeline, and what they hold.
FOLDERS = {
    "unet": "unet", "transformer": "transformer",
    "text_encoder": "te1", "text_encoder_2": "te2", "text_encoder_3": "te3",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """An adapter, and which component its folder says it is for; empty where only its names say so."""

    adapter: Adapter
    component: str = ""
    folder: bytes = b""


@dataclass(frozen=True, eq=False)
class Located:
    """A module under its canonical component and name."""

    component: str
    name: str
    module: Module


@contextmanager
def opened_parts(path: bytes) -> Iterator[tuple[Part, ...]]:
    """The adapters at `path`, each with a module at least. Raises FileError."""
    with ExitStack() as stack:
        parts = []
        for folder, component in _places(path):
            adapter = stack.enter_context(
                read_adapter(os.fsdecode(os.path.join(path, folder) if folder else path))
            )
            if not adapter.modules:
                reason = "; ".join(problem.text for problem in adapter.problems) or "no layers of an adapter"
                raise MalformedFile(f"{reason[:500]}; is it a LoRA?", adapter.path)
            parts.append(Part(adapter, component, folder))
        yield tuple(parts)


def _places(path: bytes) -> list[tuple[bytes, str]]:
    if not os.path.isdir(path) or weight_file(path) is not None:
        return [(b"", "")]
    inner = [(os.fsencode(name), component) for name, component in FOLDERS.items()]
    return [each for each in inner if weight_file(os.path.join(path, each[0])) is not None] or [(b"", "")]


def located(part: Part) -> list[Located]:
    """All modules of an adapter, where its folder says they belong."""
    found = []
    for module in part.adapter.modules:
        component, name = module.component, module.name
        if part.component and part.component != component:
            inner = name.removeprefix(f"{component}.")
            component = part.component
            name = f"{component}.{inner}" if component.startswith("te") else inner
        found.append(Located(component, name, module))
    return found
