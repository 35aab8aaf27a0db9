"""PEFT adapter folders as output: the weights, and the `adapter_config.json` by which `peft` loads them.

Source: peft `config.py`, `tuners/lora/config.py` and `utils/save_and_load.py`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from loracore.tensorfile import SUFFIXES, Layer
from loracore.tensorfile.peft import CONFIG
from lorakit.output.containers import Writer
from lorakit.output.folder import FolderDraft
from lorakit.output.safetensors import Writer as SafetensorsWriter

WEIGHTS = b"adapter_model.safetensors"
#: What a folder has to hold to be replaced with --force.
KIND = (CONFIG, WEIGHTS, b"adapter_model.bin")


class Scaled(NamedTuple):
    """A module by its name in the model that PEFT wraps, and its scale: ΔW = alpha / rank · B·A."""

    name: str
    rank: int
    alpha: float


def is_folder(path: bytes) -> bool:
    """Whether a PEFT result of this name is an adapter folder: it is one already, or has no file's suffix."""
    return os.path.isdir(path) or os.path.splitext(path)[1].lower() not in SUFFIXES


def patterns(modules: Iterable[Scaled]) -> dict[str, Any]:
    """`r`, `lora_alpha`, `rank_pattern`, `alpha_pattern` and `target_modules` for these modules.

    The usual rank and alpha are those that most modules have.
    """
    listed = list(modules)
    rank = Counter(each.rank for each in listed).most_common(1)[0][0] if listed else 8
    alpha = Counter(each.alpha for each in listed).most_common(1)[0][0] if listed else 8.0
    keys = _pattern_keys([each.name for each in listed])
    return {
        "r": rank,
        "lora_alpha": _number(alpha),
        "rank_pattern": {keys[each.name]: each.rank for each in listed if each.rank != rank},
        "alpha_pattern": {keys[each.name]: _number(each.alpha) for each in listed if each.alpha != alpha},
        "target_modules": sorted(each.name for each in listed),
    }


def lora_config(modules: Iterable[Scaled], *, base: str = "", **changes: Any) -> dict[str, Any]:
    """An `adapter_config.json` for LoRA. `base` is the base model's name or path; `changes` come last."""
    return {
        "base_model_name_or_path": base or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_bias": False,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "revision": None,
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
        **patterns(modules),
        **changes,
    }


def _pattern_keys(names: Sequence[str]) -> dict[str, str]:
    """PEFT takes a key for the end of a name; `^` keeps one that also ends another from meaning both."""
    ends = {name[place + 1 :] for name in names for place, char in enumerate(name) if char == "."}
    return {name: f"^{name}" if name in ends else name for name in names}


def _number(value: float) -> float | int:
    """Whole numbers as PEFT writes them."""
    return int(value) if float(value).is_integer() else float(value)


class PeftFolder:
    """An adapter folder in the making, or several below one folder. `finish` gives them their names."""

    def __init__(self, draft: FolderDraft) -> None:
        self._draft = draft

    def add(
        self,
        layers: Sequence[Layer],
        metadata: Mapping[str, str],
        config: Mapping[str, Any],
        folder: bytes = b"",
    ) -> Writer:
        """The writer of an adapter's weights; its `finish` is not to be called. Raises FileError."""
        self._draft.write(os.path.join(folder, CONFIG), encoded(config))
        draft = self._draft.draft(os.path.join(folder, WEIGHTS))
        # Transformers and peft ask what wrote the file.
        return self._draft.whole(SafetensorsWriter(draft, layers, {"format": "pt", **metadata}))

    def finish(self) -> None:
        """Raises UsageError where something came to stand there meanwhile, FileError."""
        self._draft.finish()


@contextmanager
def writing_folder(path: bytes, *, force: bool = False) -> Iterator[PeftFolder]:
    """A PEFT adapter folder; nothing is there, and nothing is left, unless `finish` was called.

    Raises UsageError where something is there already, FileError where nothing can be written.
    """
    with FolderDraft(path, force=force, kind=KIND) as draft:
        yield PeftFolder(draft)


@contextmanager
def writing_adapter(
    path: bytes,
    layers: Sequence[Layer],
    metadata: Mapping[str, str],
    config: Mapping[str, Any],
    *,
    force: bool = False,
) -> Iterator[Writer]:
    """As `containers.writing`, for a folder with one adapter: `finish` of the writer makes it whole."""
    with writing_folder(path, force=force) as folder:
        writer = folder.add(layers, metadata, config)
        yield _Alone(writer, folder)


class _Alone:
    """The writer of a folder's only adapter, which finishes the folder."""

    def __init__(self, writer: Writer, folder: PeftFolder) -> None:
        self.give = writer.give
        self.give_bytes = writer.give_bytes
        self._folder = folder

    def finish(self) -> None:
        self._folder.finish()


def encoded(config: Mapping[str, Any]) -> bytes:
    """As `save_pretrained` writes it."""
    return json.dumps(config, indent=2, sort_keys=True).encode()
