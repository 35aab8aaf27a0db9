"""Messages between the daemon and its worker processes: four bytes of length, little-endian, then MessagePack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, BinaryIO, TypeVar, cast

import msgspec

T = TypeVar("T")


def write(pipe: BinaryIO, message: msgspec.Struct) -> None:
    """Raises BrokenPipeError when nobody reads (any more)."""
    body = msgspec.msgpack.encode(message)
    pipe.write(len(body).to_bytes(4, "little") + body)
    pipe.flush()


def read(pipe: BinaryIO, kind: msgspec.msgpack.Decoder[T], longest: int) -> Iterator[T]:
    """All messages until the writer is gone, also if that happens within one."""
    while len(head := pipe.read(4)) == 4:
        length = int.from_bytes(head, "little")
        if length > longest or len(body := pipe.read(length)) < length:
            return
        yield kind.decode(body)


def end_of(pipe: IO[bytes] | None) -> BinaryIO:
    """Our end of a pipe to a process that was started with one."""
    assert pipe is not None
    return cast(BinaryIO, pipe)
