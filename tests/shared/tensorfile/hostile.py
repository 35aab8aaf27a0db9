"""Pickles that are made to cost: `python -m tests.shared.tensorfile.hostile` reads them in little memory."""

from __future__ import annotations

import resource
import struct
import sys
import time

from loracore.errors import FileError
from loracore.tensorfile import pickles
from loracore.tensorfile.statedict import named_tensors, simple_metadata
from tests.shared.tensorfile.handmade import asks, integer, text

#: Address space of the process that reads them all, in bytes, and seconds for each.
MEMORY = 1 << 30
SECONDS = 20.0


_HASH_PERIOD = (1 << 61) - 1
_ORDERED = asks("collections", "OrderedDict")

BOMBS = {
    "memo index": b"\x80\x02}" + b"r\xff\xff\xff\xff" + b".",
    "memo full": b"\x80\x02}" + b"".join(b"r" + struct.pack("<I", i << 12) for i in range(900_000)) + b".",
    "memo collisions": b"\x80\x02}"
    + b"".join(b"r" + struct.pack("<I", i << 20 & 0xFFFFFFFF | i >> 12) for i in range(900_000))
    + b"j\0\0\0\0" * 900_000
    + b".",
    "bytearray": b"\x80\x02" + asks("builtins", "bytearray") + integer(1 << 60) + b"\x85R.",
    "storage": b"\x80\x02" + asks("torch.storage", "UntypedStorage") + integer(1 << 60) + b"\x85R.",
    "tensor": b"\x80\x02" + asks("torch", "FloatTensor") + integer(1 << 60) + b"\x85R.",
    "encode": b"\x80\x02"
    + asks("_codecs", "encode")
    + b"q\0"
    + text("é" * (4 << 20))
    + text("latin1")
    + b"\x86q\x01"
    + b"h\0h\x01R" * 200_000
    + b".",
    "deep lists": b"\x80\x02" + b"]" * 1_200_000 + b"a" * 1_199_999 + b".",
    "deep tuples": b"\x80\x02)" + b"\x85" * 2_400_000 + b".",
    "deep dicts": b"\x80\x02" + b"}N" * 800_000 + b"}" + b"s" * 800_000 + b".",
    "deep key": b"\x80\x02})" + b"\x85" * 2_400_000 + b"Ns.",
    "doubling key": b"\x80\x02})q\0" + b"h\0\x86q\0" * 200_000 + b"Ns.",
    "doubling lists": b"\x80\x02]q\0" + b"](h\0h\0h\0h\0h\0h\0h\0h\0h\0h\0eq\0" * 60 + b".",
    "doubling dicts": b"\x80\x02}q\0" + b"".join(
        b"}(" + text("a") + b"h\0" + text("b") + b"h\0uq\0" for _ in range(60)
    ) + b".",
    "cycle": b"\x80\x02]q\0(" + b"h\0" * 100 + b"e.",
    "dict in itself": b"\x80\x02}q\0(" + text("a") + b"h\0" + text("b") + b"h\0u.",
    "colliding keys": b"\x80\x02}("
    + b"".join(integer(_HASH_PERIOD * i) + b"N" for i in range(1, 600_000))
    + b"u.",
    "one key again and again": b"\x80\x02}(" + b"K\x01N" * 1_000_000 + b"u.",
    "copies": b"\x80\x02](" + b"NN\x86" * 500_000 + b"e\x85q\0"
    + _ORDERED + b"q\x01h\0R" + b"h\x01h\0R" * 200_000 + b".",
    "wrapped": b"\x80\x02" + asks("torch._tensor", "_rebuild_from_type_v2") + b"q\0)"
    + b"q\x01h\0Nh\x01N(h\0Nh\x01Ntq\x01" * 200_000 + b"h\0h\x01R.",
    "long names": b"\x80\x02" + text("x" * (16 << 20)) + b"q\0" + b"}h\0" * 60 + b"N" + b"s" * 60 + b".",
    "many names": b"\x80\x02" + text("x" * 4000) + b"q\0]("
    + b"".join(b"}h\0](" + b"]" * 100 + b"es" for _ in range(8000)) + b"e.",
    "dicts alone": b"\x80\x02" + b"}" * (8 << 20) + b".",
    "marks alone": b"\x80\x02" + b"(" * (8 << 20) + b".",
    "many small texts": b"\x80\x02](" + b"U\x01a" * 1_200_000 + b"e.",
    "no newline": b"\x80\x02c" + b"a" * (16 << 20),
}  # fmt: skip


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for name, bomb in BOMBS.items():
        start = time.monotonic()
        try:
            value = pickles.load(bomb).value
            simple_metadata(value)
            named_tensors(value)
            outcome = "accepted"
        except FileError as error:
            outcome = str(error)
        value = None
        seconds = time.monotonic() - start
        print(f"{name}: {seconds:.2f} s: {outcome}")
        if seconds > SECONDS:
            sys.exit(f"{name} took {seconds:.0f} s")


if __name__ == "__main__":
    main()
