"""Typed messages over a pipe: four bytes of length, little-endian, then MessagePack."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from loracore.errors import LoraError
from loracore.messages import Report

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
