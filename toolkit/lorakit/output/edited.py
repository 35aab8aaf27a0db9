"""A safetensors file like another, but for some of its layers: the others' bytes are copied by the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from loracore.causes import explained
from loracore.errors import FileError, MalformedFile
from loracore.tensorfile import Container, Layer, Source
from loracore.whole import regular
from lorakit.output.draft import Draft

#: Bytes that are copied at once, so that progress is told and a job can be cancelled.
_PIECE = 32 << 20


class EditedFile:
    """The copy in the making. Several threads may give and copy at once; together they have to do all layers."""

    def __init__(self, draft: Draft, source: Source, container: Container, metadata: Mapping[str, str]) -> None:
        """Lay the file out as `source` is, with other metadata. Raises FileError where there is no room for it."""
        self._draft = draft
        self._source = source
        self._old_base = container.base
        self._layers = {layer.name: layer for layer in container.layout.layers}
        self._offsets = dict(zip(self._layers, container.arrangement.offsets, strict=True))
        self._header = _header(self._layers.values(), self._offsets, metadata)
        self._base = len(self._header)
        self.size = self._base + container.layout.nbytes
        draft.reserve(self.size)

    def give_bytes(self, name: str, data: bytes | memoryview, start: int = 0) -> None:
        """Write a layer's bytes, or some of them from `start` on. Raises FileError."""
        assert start + len(data) <= self._layers[name].nbytes, (name, start, len(data))
        self._draft.write(data, self._base + self._offsets[name] + start)

    def ranges(self, but: Iterable[str]) -> list[tuple[int, int]]:
        """(start, bytes) of all that is to be copied, behind the header: neighbours together, in pieces."""
        left_out = set(but)
        found: list[tuple[int, int]] = []
        for name in sorted(self._layers.keys() - left_out, key=lambda name: self._offsets[name]):
            start, size = self._offsets[name], self._layers[name].nbytes
            if found and sum(found[-1]) == start:
                found[-1] = (found[-1][0], found[-1][1] + size)
            elif size:
                found.append((start, size))
        return [
            (piece, min(_PIECE, start + size - piece))
            for start, size in found
            for piece in range(start, start + size, _PIECE)
        ]

    def copy(self, start: int, size: int) -> None:
        """Copy a range as the source has it. Raises FileError."""
        place, end = start, start + size
        while place < end:
            copied = self._copy(place, end - place)
            if not copied:
                raise MalformedFile("it became shorter while it was read")
            place += copied

    def _copy(self, start: int, size: int) -> int:
        old, new = self._old_base + start, self._base + start
        try:
            # Within one file system the bytes need not pass through this process.
            return os.copy_file_range(self._source.fd, self._draft.fd, size, old, new)
        except OSError:
            # Between file systems, or where there is no such call; an error of the disk comes again.
            data = self._source.read(old, min(size, _PIECE))
            self._draft.write(data, new)
            return len(data)

    def finish(self) -> None:
        """Put the header in front, and give the file its name. Raises UsageError and FileError."""
        self._draft.write(self._header, 0)
        self._draft.finish()


def _header(layers: Iterable[Layer], offsets: Mapping[str, int], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    for layer in sorted(layers, key=lambda layer: offsets[layer.name]):
        start = offsets[layer.name]
        place = [start, start + layer.nbytes]
        entries[layer.name] = {"dtype": layer.dtype, "shape": list(layer.shape), "data_offsets": place}
    text = msgspec.json.encode(entries)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def copied_file(source: bytes, draft: Draft, told: Callable[[int], object]) -> None:
    """All bytes of a file into a draft; `told` hears how many came. Raises FileError."""
    try:
        with open(source, "rb", opener=regular) as file:
            place = 0
            while data := file.read(_PIECE):
                draft.write(data, place)
                place += len(data)
                told(len(data))
    except OSError as error:
        raise FileError(f"it cannot be read: {explained(error)}", os.fsdecode(source)) from error
