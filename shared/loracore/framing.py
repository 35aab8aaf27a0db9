"""Typed messages over a pipe: four bytes of length, little-endian, then MessagePack; and their decoders.

msgspec builds a type when a decoder for it is made, and two threads that build types with a struct in common crash
the process. So decoders are made where a module is imported; those for types that are known when a program runs,
such as the types of jobs, are made here, one at a time.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, TypeVar, cast

import msgspec

from loracore.errors import LoraError
from loracore.messages import Report

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


#: A longer message is not read.
MAX_REPORT = 1 << 20
_LENGTH = struct.Struct("<I")
_DECODER = msgspec.msgpack.Decoder(Report)


def write_report(pipe: BinaryIO, report: Report) -> None:
    body = msgspec.msgpack.encode(report)
    pipe.write(_LENGTH.pack(len(body)) + body)
    pipe.flush()


def read_reports(pipe: BinaryIO) -> Iterator[Report]:
    """All reports until the writer closes. Raises LoraError for what is not a report."""
    while len(head := pipe.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(head)
        if length > MAX_REPORT:
            raise LoraError(f"the daemon sent a message of {length} bytes, more than {MAX_REPORT}")
        try:
            yield _DECODER.decode(pipe.read(length))
        except msgspec.MsgspecError as error:
            raise LoraError(f"the daemon sent what is not a report: {error}") from error


S = TypeVar("S")

_lock = threading.Lock()
_packed: dict[type, msgspec.msgpack.Decoder[Any]] = {}
_texts: dict[type, msgspec.json.Decoder[Any]] = {}


def unpacked(data: bytes, kind: type[S]) -> S:
    """MessagePack as a struct. Raises msgspec.MsgspecError."""
    with _lock:
        decoder = _packed.get(kind) or _packed.setdefault(kind, msgspec.msgpack.Decoder(kind))
    found: S = decoder.decode(data)
    return found


def from_json(data: bytes, kind: type[S]) -> S:
    """JSON as a struct. Raises msgspec.MsgspecError."""
    with _lock:
        decoder = _texts.get(kind) or _texts.setdefault(kind, msgspec.json.Decoder(kind))
    found: S = decoder.decode(data)
    return found
