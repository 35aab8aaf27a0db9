"""Where a LoRA is written: a file of a known suffix, or PEFT's folder where the names are PEFT's."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from loracore.adapter import LayerRef
from loracore.errors import UsageError
from loracore.names.conventions.peft import PEFT_PREFIX
from lorakit.output import peftfolder, safetensors
from lorakit.output.containers import CHECKPOINTS, SAFETENSORS, Writer, container_of, writing
from lorakit.output.draft import refuse_existing
from lorakit.output.folder import refuse_folder
from lorakit.output.peftfolder import KIND, Scaled

#: Of a configuration, what the names of all modules make superfluous, and what is folded into the factors.
_REPLACED = ("layers_to_transform", "layers_pattern", "exclude_modules", "use_rslora", "target_parameters")
#: What a configuration of any kind of adapter says.
_OF_ALL = frozenset({
    "base_model_name_or_path", "revision", "task_type", "auto_mapping", "modules_to_save", "peft_version",
})  # fmt: skip


class Destination:
    """A path that a LoRA of these names may be written to. `force`: what is there may be replaced."""

    def __init__(self, path: bytes, convention: str, *, force: bool, inputs: tuple[bytes, ...]) -> None:
        """Raises UsageError where something is there already, or the names do not belong into a folder."""
        self.path = path
        self._force = force
        self.is_folder = peftfolder.is_folder(path)
        if not self.is_folder:
            container_of(path)
            refuse_existing(path, force=force, inputs=inputs)
            return
        if convention != "peft":
            known = ", ".join((SAFETENSORS, *CHECKPOINTS))
            raise UsageError(
                f"{os.fsdecode(path)}: give -o a suffix of {known}; a folder is for PEFT's names, "
                f"and these are {convention}'s"
            )
        refuse_folder(path, force=force, kind=KIND, inputs=inputs)

    @property
    def container(self) -> str:
        return "safetensors" if self.is_folder else container_of(self.path)

    @contextmanager
    def writing(
        self, layers: Sequence[LayerRef], metadata: Mapping[str, str], config: Mapping[str, Any]
    ) -> Iterator[Writer]:
        """A writer; nothing is left unless its `finish` was called.

        Raises UsageError where two layers would have one name, FileError, and MissingPackage.
        """
        _refuse_twice(layers)
        if self.is_folder:
            with peftfolder.writing_adapter(self.path, layers, metadata, config, force=self._force) as writer:
                yield writer
        else:
            with writing(self.path, layers, metadata, force=self._force) as writer:
                yield writer

    def size(self, layers: Sequence[LayerRef], metadata: Mapping[str, str]) -> int | None:
        """Bytes that the weights' file would have; None where only writing it would tell."""
        return safetensors.size_of(layers, metadata) if self.container == "safetensors" else None

    def written_size(self) -> int:
        """Bytes of the weights' file, once it is there."""
        return os.stat(os.path.join(self.path, peftfolder.WEIGHTS) if self.is_folder else self.path).st_size


def _refuse_twice(layers: Sequence[LayerRef]) -> None:
    for name, count in Counter(layer.name for layer in layers).items():
        if count > 1:
            raise UsageError(f"layer {name[:200]!r} would be there {count} times: two modules have one name")


def configured(given: Mapping[str, Any], modules: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """The configuration of an adapter of these modules, by key and rank, whose factors hold their scales."""
    scaled = [Scaled(key.removeprefix(PEFT_PREFIX), rank, float(rank)) for key, rank in modules]
    if given.get("peft_type", "LORA") != "LORA":
        # LoHa and LoKr have settings of their own, which peft's LoraConfig does not know.
        given = {key: value for key, value in given.items() if key in _OF_ALL}
        return peftfolder.lora_config(scaled, **given)
    if not given:
        return peftfolder.lora_config(scaled)
    kept = {key: value for key, value in given.items() if key not in _REPLACED}
    return kept | {"peft_type": "LORA", "use_rslora": False, **peftfolder.patterns(scaled)}
