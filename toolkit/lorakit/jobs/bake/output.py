"""The model in the making: the base's files again, with other layers in them.

A safetensors file keeps its layout; a torch checkpoint becomes a safetensors file with a name that libraries know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from loracore.errors import FileError, UsageError
from loracore.jobs.change import Stored
from loracore.tensorfile import Layer
from lorakit.jobs.bake import recasting
from lorakit.jobs.bake.base import Base, WeightFile, files_beside
from lorakit.jobs.bake.recasting import casting, recast
from lorakit.output.containers import container_of
from lorakit.output.draft import Draft, refuse_existing
from lorakit.output.edited import EditedFile, copied_file
from lorakit.output.folder import FolderDraft, refuse_folder
from lorakit.output.rounding import stored
from lorakit.output.safetensors import Writer
from lorakit.output.stamp import STALE

#: What a folder has to hold to be replaced with --force.
KIND = (
    b"config.json", b"model_index.json", b"model.safetensors", b"model.safetensors.index.json",
    b"diffusion_pytorch_model.safetensors",
)  # fmt: skip
_TORCH = b"pytorch_model"
#: For values that are too large for the base's dtype.
_REMEDY = "take smaller --weights, or a base in float32"

Told = Callable[[int], object]


@dataclass(frozen=True)
class OutputFile:
    """A weight file in the making. The steps of `rest` copy the layers that do not change."""

    layers: Mapping[str, Layer]
    give_bytes: Callable[[str, bytes | memoryview, int], None]
    rest: Sequence[Callable[[], int]]
    finish: Callable[[], None]

    def give(self, name: str, start: int, values: NDArray[Any]) -> None:
        """Write rows of a layer that changed, from row `start` on. Raises UsageError and FileError."""
        layer = self.layers[name]
        row = layer.nbytes // layer.shape[0] if layer.shape else 0
        self.give_bytes(name, stored(values, layer.dtype, name, _REMEDY), start * row)


@dataclass(frozen=True)
class Output:
    """All weight files, in the order of the base's, and what makes the result whole."""

    files: Sequence[OutputFile]
    finish: Callable[[], None]


def refuse_output(path: bytes, base: Base, *, force: bool, inputs: tuple[bytes, ...]) -> None:
    """Raises UsageError where the result cannot be `path`."""
    if base.is_folder:
        if path.lower().endswith(b".safetensors"):
            raise UsageError(f"{os.fsdecode(path)}: the base is a folder; give -o a folder")
        refuse_folder(path, force=force, kind=KIND, inputs=(base.path, *inputs))
        if os.path.realpath(path).startswith(os.path.realpath(base.path) + b"/"):
            raise UsageError(f"{os.fsdecode(path)}: it is inside of the base; give another -o")
        return
    if os.path.splitext(path)[1].lower() != b".safetensors" or container_of(path) != "safetensors":
        raise UsageError(f"{os.fsdecode(path)}: the base is one file; give -o a name that ends in .safetensors")
    refuse_existing(path, force=force, inputs=(base.path, *inputs))


@contextmanager
def writing_model(
    path: bytes,
    base: Base,
    changed: Sequence[frozenset[str]],
    stamped: Mapping[str, str],
    *,
    force: bool,
    told: Told,
    dtype: Stored | None = None,
) -> Iterator[Output]:
    """A copy of the base, whose layers `changed` (by file) are given; nothing is left unless it is finished.

    `dtype`: all floats become such; None keeps theirs. `told` hears of bytes that were copied.

    Raises UsageError and FileError.
    """
    if not base.is_folder:
        with Draft(path, force=force) as draft:
            file = _file(base.files[0], draft, changed[0], stamped, dtype)
            yield Output([file], file.finish)
        return
    with FolderDraft(path, force=force, kind=KIND) as folder:
        files = []
        for each, names in zip(base.files, changed, strict=True):
            files.append(folder.whole(_file(each, folder.draft(renamed(each.name)), names, stamped, dtype)))
        for name in files_beside(base)[0]:
            _copy_beside(base, name, folder, told, dtype)
        yield Output(files, folder.finish)


def renamed(name: bytes) -> bytes:
    """The name of a weight file in the result: as it is, or what a torch checkpoint is called as safetensors."""
    stem, suffix = os.path.splitext(name)
    if suffix.lower() == b".safetensors":
        return name
    folder, file = os.path.split(stem)
    if file.startswith(_TORCH):
        file = b"model" + file[len(_TORCH) :]
    return os.path.join(folder, file + b".safetensors")


def _file(
    file: WeightFile, draft: Draft, changed: frozenset[str], stamped: Mapping[str, str], dtype: Stored | None
) -> OutputFile:
    reader, layers = file.reader, recast(file.reader.layers, dtype)
    metadata = {key: value for key, value in reader.container.metadata.items() if key not in STALE}
    metadata |= {"format": reader.container.metadata.get("format", "pt"), **stamped}
    if reader.container.format == "safetensors" and layers == reader.layers:
        edited = EditedFile(draft, reader.source, reader.container, metadata)
        rest = [_range(file, edited, *each) for each in edited.ranges(changed)]
        return OutputFile(reader.layers, edited.give_bytes, rest, edited.finish)
    writer = Writer(draft, list(layers.values()), metadata)
    rest = [_layer(file, writer, layer) for name, layer in layers.items() if name not in changed]
    return OutputFile(layers, writer.give_bytes, rest, writer.finish)


def _range(file: WeightFile, edited: EditedFile, start: int, size: int) -> Callable[[], int]:
    def copy() -> int:
        try:
            edited.copy(start, size)
        except FileError as error:
            error.path = error.path or file.reader.shown
            raise
        return size

    return copy


def _layer(file: WeightFile, writer: Writer, layer: Layer) -> Callable[[], int]:
    name = layer.name
    if layer != file.reader.layers[name]:
        return casting(file, layer, writer.give_bytes, _REMEDY)

    def copy() -> int:
        writer.give_bytes(name, file.reader.stored(name))
        return layer.nbytes

    return copy


def _copy_beside(base: Base, name: bytes, folder: FolderDraft, told: Told, dtype: Stored | None) -> None:
    source = os.path.join(base.path, name)
    if name.endswith(b".index.json") and (dtype is not None or b".bin.index." in name):
        folder.write(_renamed_index(name), recasting.index(source, _sizes(base, name, dtype), renamed))
        return
    if dtype is not None and os.path.basename(name) == b"config.json":
        folder.write(name, recasting.settings(source, dtype))
        return
    copied_file(source, folder.whole(folder.draft(name)), told)


def _renamed_index(name: bytes) -> bytes:
    folder, file = os.path.split(name)
    if b".bin.index." in file and file.startswith(_TORCH):
        file = b"model" + file[len(_TORCH) :]
    return os.path.join(folder, file.replace(b".bin.index.", b".safetensors.index."))


def _sizes(base: Base, index: bytes, dtype: Stored | None) -> dict[str, int]:
    """Bytes of each layer in the weight files beside an index, as they are written."""
    beside = [file for file in base.files if os.path.dirname(file.name) == os.path.dirname(index)]
    return {name: layer.nbytes for file in beside for name, layer in recast(file.reader.layers, dtype).items()}
