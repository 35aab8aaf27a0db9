"""Decoders for types that are known when a program runs, such as those of jobs.

msgspec builds a type when a decoder for it is made. Two threads that build types with a struct in common crash the
process. So decoders are made where a module is imported, and here, one at a time.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

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
