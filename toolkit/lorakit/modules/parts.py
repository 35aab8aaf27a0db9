"""The adapters of a pipeline: one file for all of its models, or a PEFT folder for each.

PEFT's examples save a pipeline's adapters into folders with the pipeline's names: `unet`, `text_encoder` …
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from loracore.adapter import Adapter, Module, read_adapter
from loracore.errors import MalformedFile
from loracore.jobs.results import Fault
from loracore.names.conventions.diffusers import DIFFUSERS
from loracore.names.recognition import Named, family_of
from loracore.tensorfile.peft import weight_file

#: Folders of a pipeline, and what they hold.
FOLDERS = {prefix.text.removesuffix("."): prefix.component for prefix in DIFFUSERS.prefixes if prefix.written}


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


def family_of_all(parts: Sequence[Part], modules: Sequence[Located]) -> str:
    """The base family of adapters that belong together."""
    config: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for part in parts:
        config = {**part.adapter.config, **config}
        metadata = {**part.adapter.metadata, **metadata}
    named = [Named(each.component, each.name, each.module.shape) for each in modules]
    return family_of(named, config, metadata)


def beside(part: Part) -> list[Fault]:
    """What of a file is in no module, or in one that cannot be used."""
    faults = [Fault(each.module, each.text) for each in part.adapter.problems if each.level == "error"]
    used = {layer.name for module in part.adapter.modules for layer in module.layers.values()}
    named = tuple(f"{fault.module}." for fault in faults if fault.module)
    rest = [name for name in part.adapter.layers if name not in used and not name.startswith(named)]
    return faults + [Fault(name, "a layer of no module that is known here") for name in rest]
