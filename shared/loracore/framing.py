"""Typed messages over a pipe: four bytes of length, little-endian, then MessagePack; and their decoders.

msgspec builds a type when a decoder for it is made. Two threads that build types with a struct in common crash the
process. So decoders are made where a module is imported, or here by `unpacked`, `from_json` and `converted`, one
at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, TypeVar, cast

import msgspec

T = TypeVar("T")

#: Bytes of the length that stands before a message.
HEAD = 4


def head_of(message: bytes) -> bytes:
    """What stands before a message: its length."""
    return len(message).to_bytes(HEAD, "little")


def length_in(head: bytes | bytearray) -> int:
    """The length of the message after this head."""
    return int.from_bytes(head, "little")


def write(pipe: BinaryIO, message: msgspec.Struct) -> None:
    """Raises BrokenPipeError when the other end is closed."""
    body = msgspec.msgpack.encode(message)
    pipe.write(head_of(body) + body)
    pipe.flush()


def read(pipe: BinaryIO, kind: msgspec.msgpack.Decoder[T], longest: int) -> Iterator[T]:
    """All messages until the writer has ended, which may be within one.

    Raises msgspec.DecodeError for what is no such message, or has more than `longest` bytes.
    """
    while len(head := pipe.read(HEAD)) == HEAD:
        length = length_in(head)
        if length > longest:
            raise msgspec.DecodeError(f"a message of {length} bytes, more than {longest}")
        if len(body := pipe.read(length)) < length:
            return
        yield kind.decode(body)


def end_of(pipe: IO[bytes] | None) -> BinaryIO:
    """Our end of a pipe to a process that was started with one."""
    assert pipe is not None
    return cast(BinaryIO, pipe)


_lock = threading.Lock()
_packed: dict[type, msgspec.msgpack.Decoder[Any]] = {}
_texts: dict[type, msgspec.json.Decoder[Any]] = {}


def unpacked(data: bytes, kind: type[T]) -> T:
    """MessagePack as a struct. Raises msgspec.MsgspecError."""
    with _lock:
        decoder = _packed.get(kind) or _packed.setdefault(kind, msgspec.msgpack.Decoder(kind))
    found: T = decoder.decode(data)
    return found


def converted(value: object, kind: Any) -> Any:
    """Plain values as a type. Raises msgspec.ValidationError."""
    with _lock:
        return msgspec.convert(value, kind)


def from_json(data: bytes, kind: type[T]) -> T:
    """JSON as a struct. Raises msgspec.MsgspecError."""
    with _lock:
        decoder = _texts.get(kind) or _texts.setdefault(kind, msgspec.json.Decoder(kind))
    found: T = decoder.decode(data)
    return found
