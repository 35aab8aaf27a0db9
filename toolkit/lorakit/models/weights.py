"""A model's layers by name, their bytes read in blocks with `preadv`, so that its size does not matter.

A diffusers model's layers are named `unet.…`, `text_encoder.…`, after the folder they lie in.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from loracore.errors import ChangedFile, FileError, MalformedFile
from loracore.identity import Identity
from loracore.jobs.results import Fault
from loracore.paths import shown
from loracore.tensorfile import Container, Layer, Source, Strides, open_regular, read_container
from loracore.tensorfile.strided import gather
from loracore.tensorfile.ziprecords import record_start
from lorakit.models import shards
from lorakit.models.shards import Shard

#: Bytes of a view that is put in order in memory (`loracore.tensorfile.strided`); larger ones are left out.
_MAX_VIEW = 256 << 20
_PIECE = 1 << 20


@dataclass(frozen=True)
class _File:
    path: bytes
    source: Source
    container: Container
    identity: Identity


@dataclass(frozen=True)
class Tensor:
    """A layer under its name in the model, and where its bytes are."""

    name: str
    layer: Layer
    file: int
    index: int

    @property
    def dtype(self) -> str:
        return self.layer.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layer.shape

    @property
    def nbytes(self) -> int:
        return self.layer.nbytes


class Weights:
    """An open model. Its files stay open until `close`; several threads may read at once."""

    def __init__(self, path: bytes) -> None:
        """Open the model at `path`. Raises FileError, which names the file."""
        self.path = path
        self.tensors: dict[str, Tensor] = {}
        self._files: list[_File] = []
        self._stack = ExitStack()
        found = shards.find(path)
        self.faults: list[Fault] = []
        self.warnings = found.warnings
        self.components = tuple(dict.fromkeys(shard.component for shard in found.shards))
        try:
            for shard in found.shards:
                self._add(shard)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def identities(self) -> tuple[tuple[bytes, Identity], ...]:
        """Path and identity of each weight file, as it was when it was opened."""
        return tuple((file.path, file.identity) for file in self._files)

    @property
    def files(self) -> tuple[tuple[bytes, Source], ...]:
        """Path and open file of each weight file."""
        return tuple((file.path, file.source) for file in self._files)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def read_into(self, tensor: Tensor, buffer: memoryview, start: int) -> None:
        """Fill `buffer` with the layer's bytes (little-endian, C order) from byte `start` on. Raises FileError."""
        file = self._files[tensor.file]
        try:
            view = self._view(tensor)
            if view is None:
                file.source.read_into(buffer, self._start(tensor) + start)
                return
            data = b"".join(gather(file.source, self._start(tensor), tensor.layer, view, _PIECE))
            buffer[:] = data[start : start + len(buffer)]
        except FileError as error:
            error.path = os.fsdecode(file.path)
            raise
        except OSError as error:
            raise FileError(f"cannot be read: {error.strerror}", os.fsdecode(file.path)) from error

    def is_view(self, tensor: Tensor) -> bool:
        """Whether its bytes do not lie in C order: then reading any of them reads them all."""
        return self._view(tensor) is not None

    def check_view(self, tensor: Tensor) -> None:
        """Raises MalformedFile for a view that is too large to be put in order."""
        view = self._view(tensor)
        if view is not None and max(view.storage_bytes, tensor.nbytes) > _MAX_VIEW:
            raise MalformedFile(f"a view of over {_MAX_VIEW >> 20} MiB; save it after contiguous()")

    def check_unchanged(self) -> None:
        """Raises ChangedFile where a file is not what it was when it was opened."""
        for file in self._files:
            if Identity.of(os.fstat(file.source.fd)) != file.identity:
                raise ChangedFile("it changed while it was read; do it again", os.fsdecode(file.path))

    def _add(self, shard: Shard) -> None:
        try:
            # A link is followed: the Hub's cache consists of them.
            source = self._stack.enter_context(open_regular(os.path.realpath(shard.path)))
            container = read_container(source, shard.path)
        except FileError as error:
            error.path = os.fsdecode(shard.path)
            raise
        file = len(self._files)
        self._files.append(_File(shard.path, source, container, Identity.of(os.fstat(source.fd))))
        prefix = f"{shard.component}." if shard.component else ""
        names = set()
        for index, layer in enumerate(container.layout.layers):
            names.add(layer.name)
            name = prefix + layer.name
            if name in self.tensors:
                other = os.path.basename(self._files[self.tensors[name].file].path)
                raise MalformedFile(
                    f"{shown(other)} has layer {layer.name[:80]!r} too; give the one file that you mean",
                    os.fsdecode(shard.path),
                )
            self.tensors[name] = Tensor(name, layer, file, index)
        for name in sorted((shard.expected or frozenset()) - names):
            self.faults.append(
                Fault(prefix + name, f"the index has it in {shown(os.path.basename(shard.path))}, which lacks it")
            )

    def _start(self, tensor: Tensor) -> int:
        file = self._files[tensor.file]
        places = file.container.arrangement
        base = record_start(file.source, places.records[tensor.index]) if places.records else file.container.base
        return base + places.offsets[tensor.index]

    def _view(self, tensor: Tensor) -> Strides | None:
        strides = self._files[tensor.file].container.arrangement.strided.get(tensor.index)
        return strides if tensor.nbytes else None
