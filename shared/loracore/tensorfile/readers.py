"""Which reader reads which file, and how a file is opened for it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from loracore.causes import explained
from loracore.errors import FileError, MalformedFile, UnknownFormat
from loracore.tensorfile import safetensors
from loracore.tensorfile.container import Container
from loracore.tensorfile.recognise import recognised
from loracore.tensorfile.source import Source

#: How torch's zip begins.
_ZIP = b"PK\x03\x04"


def _read_checkpoint(source: Source) -> Container:
    from loracore.tensorfile import checkpoint  # noqa: PLC0415 - a library without pickles never loads it

    return checkpoint.read_header(source)


def _read_safetensors(source: Source) -> Container:
    """Also of a checkpoint under this suffix: one inode can have names of both kinds."""
    try:
        return safetensors.read_header(source)
    except MalformedFile:
        if source.size < 4 or source.read(0, 4) != _ZIP:
            raise
    try:
        return _read_checkpoint(source)
    except UnknownFormat as error:
        # Its name promises a model.
        raise MalformedFile(error.reason) from error


#: Every suffix that some reader knows, and that reader.
SUFFIXES = {
    b".safetensors": _read_safetensors,
    b".pt": _read_checkpoint,
    b".pth": _read_checkpoint,
    b".bin": _read_checkpoint,
    b".ckpt": _read_checkpoint,
}


def has_reader(path: bytes) -> bool:
    """Whether the name's suffix belongs to a container that some reader knows."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def name_for_reader(source: Source, path: bytes) -> bytes:
    """The name itself, or with a suffix by how the file begins, where it says nothing.

    So it is with a file that de-duplication has hidden.
    """
    if has_reader(path):
        return path
    # The JSON of a safetensors header begins after its length; torch writes a zip, or in early versions a pickle.
    begins = source.read(0, min(source.size, 9))
    is_torch = begins[8:] != b"{" and begins.startswith((_ZIP, b"\x80"))
    return path + (b".pt" if is_torch else b".safetensors")


def read_container(source: Source, path: bytes) -> Container:
    """Read the header of an open file, whose name chooses the reader.

    Raises:
        UnknownFormat: no reader knows the suffix or the content, or the file holds no layer.
        MalformedFile: the file is damaged, truncated or hostile.
        UnsafePickle: it is a pickle that asks for more than weights.
    """
    reader = SUFFIXES.get(os.path.splitext(path)[1].lower())
    if reader is None:
        raise UnknownFormat("no reader knows this kind of file")
    if source.size == 0:
        raise MalformedFile("empty; download it again")
    try:
        container = reader(source)
    except (MalformedFile, UnknownFormat) as error:
        raise recognised(source, error) from error
    if not container.layout.layers:
        raise UnknownFormat("no layer in it")
    return container


def residue(source: Source, container: Container) -> bytes:
    """The container's residue, reading between the layers if need be."""
    if container.residue is not None:
        return container.residue
    from loracore.tensorfile import checkpoint  # noqa: PLC0415 - as above

    return checkpoint.residue(source, container)


@contextmanager
def open_regular(path: bytes) -> Iterator[Source]:
    """The regular file `path`, which is never a link, a pipe or a device.

    Raises:
        FileError: it cannot be opened, or is something else; also where the block raised one without a path.
    """
    try:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if os.path.islink(path):
                raise FileError("a symbolic link; give the file that it points to") from error
            raise FileError(f"cannot be opened: {explained(error)}") from error
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise FileError("not a regular file")
            yield Source(fd, status.st_size)
        finally:
            os.close(fd)
    except FileError as error:
        error.path = error.path or os.fsdecode(path)
        raise
