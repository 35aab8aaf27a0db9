"""Whether two held files are the same: byte by byte, or layer by layer. Read in pieces, never mapped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from loracore.adapter.function import function_at
from loracore.errors import FileError
from loracore.tensorfile import Container, Source, read_container
from loracore.tensorfile.strided import gather
from loracore.tensorfile.ziprecords import record_start
from lorad.dedupe.action.hold import Held
from lorad.dedupe.action.order import Progress, Refused, RefusedAsDifferent

#: Bytes read at once, of each file.
PIECE = 1 << 20
#: A layer that does not lie in C order is put in order in memory; larger ones, or storages behind them, are not.
_MAX_STRIDED = 128 << 20


def same_bytes(kept: Held, gone: Held, progress: Progress) -> None:
    """Compare the files byte by byte. Raises Refused where they differ."""
    size = gone.before.st_size
    if kept.before.st_size != size:
        raise _differ(kept, gone)
    for fd in (kept.fd, gone.fd):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    done = 0
    for one, other in zip(pieces(kept.fd, 0, size), pieces(gone.fd, 0, size), strict=True):
        if one != other:
            raise _differ(kept, gone)
        done += len(other)
        progress(done, size)


def pieces(fd: int, offset: int, length: int) -> Iterator[bytes]:
    """The range in pieces of at most 1 MiB, each full but the last. Raises EOFError where the file ends before."""
    source = Source(fd, offset + length)
    for start in range(offset, offset + length, PIECE):
        try:
            yield source.read(start, min(PIECE, offset + length - start))
        except FileError as error:
            raise EOFError(error.reason) from error


def write_all(fd: int, parts: Iterable[bytes]) -> int:
    """Write all these bytes; how many they were. Raises OSError."""
    size = 0
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[os.write(fd, view) :]
        size += len(part)
    return size


class Layers:
    """A held container, and where its layers lie in it."""

    def __init__(self, held: Held, name: bytes = b"") -> None:
        """Read the header. `name`: that of the file, where it is held under another one.

        Raises Refused when it is not a container that can be read.
        """
        self.held = held
        self.source = Source(held.fd, held.before.st_size)
        try:
            self.container: Container = read_container(self.source, name or held.name)
        except FileError as error:
            raise Refused.about(held.path, error.reason) from error

    def is_strided(self, index: int) -> bool:
        return index in self.container.arrangement.strided

    def place(self, index: int) -> int:
        """The offset in the file of the layer's first element; `index` is that of the layout. Raises Refused."""
        arrangement = self.container.arrangement
        base = self.container.base
        if arrangement.records:
            try:
                base = record_start(self.source, arrangement.records[index])
            except FileError as error:
                raise Refused.about(self.held.path, error.reason) from error
        return base + arrangement.offsets[index]

    def part(self, index: int, start: int, length: int) -> Iterator[bytes]:
        """So many of a layer's bytes in C order, from `start` on, in pieces of 1 MiB."""
        if not self.is_strided(index):
            yield from pieces(self.held.fd, self.place(index) + start, length) if length else ()
            return
        position = 0
        for piece in self.pieces(index):
            wanted = piece[max(0, start - position) : max(0, start + length - position)]
            position += len(piece)
            if wanted:
                yield wanted

    def pieces(self, index: int) -> Iterator[bytes]:
        """The layer's bytes in C order, in pieces of 1 MiB."""
        layer = self.container.layout.layers[index]
        size = self.container.layout.sizes[index]
        strides = self.container.arrangement.strided.get(index)
        if strides is None:
            return pieces(self.held.fd, self.place(index), size) if size else iter(())
        if max(size, strides.storage_bytes) > _MAX_STRIDED:
            raise Refused.about(
                self.held.path, f"tensor {layer.name[:80]!r} is a view of over 128 MiB; save it after contiguous()"
            )
        return gather(self.source, self.place(index), layer, strides, PIECE)


def function_of(held: Held, name: bytes = b"", folder: int | None = None) -> tuple[bytes | None, bytes | None]:
    """What the header of a held file, and the configuration beside it, say of its function.

    `name`, `folder`: its own, where it is put aside. Raises Refused where it cannot be read.
    """
    try:
        return function_at(held.fd, name or held.name, held.folder if folder is None else folder)
    except FileError as error:
        raise Refused.about(held.path, error.reason) from error


def same_layers(kept: Layers, gone: Layers, progress: Progress) -> None:
    """Compare the files layer by layer, whatever their containers. Raises Refused where a layer differs."""
    layout = gone.container.layout
    if kept.container.layout.signature != layout.signature:
        raise _differ(kept.held, gone.held)
    total, done = layout.nbytes, 0
    # In the order of the file that goes: it is read from begin to end.
    order = sorted(range(len(layout.layers)), key=lambda index: gone.place(index) if layout.sizes[index] else 0)
    for index in order:
        try:
            for one, other in zip(kept.pieces(index), gone.pieces(index), strict=True):
                if one != other:
                    raise _differ(kept.held, gone.held)
                done += len(other)
                progress(done, total)
        except FileError as error:
            raise Refused(error.reason, error.path or os.fsdecode(gone.held.path)) from error


def _differ(kept: Held, gone: Held) -> Refused:
    return RefusedAsDifferent.about(
        gone.path, f"it is not the same as {os.fsdecode(kept.path)} any more; scan again"
    )
