"""Checkpoints made by hand, without torch: each byte of a pickle is chosen, and each container is minimal."""

from __future__ import annotations

import io
import struct
import zipfile


def text(value: str) -> bytes:
    """A text as the pickle of protocol 2 writes it."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def asks(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def view(
    *,
    offset: int = 0,
    shape: tuple[int, ...] = (2,),
    strides: tuple[int, ...] = (1,),
    numel: int = 2,
    kind: str = "FloatStorage",
    key: str = "0",
    legacy: bool = False,
) -> bytes:
    """A checkpoint's pickle with the tensor `a`, a view of a storage as told."""
    sizes = [b"(" + b"".join(map(integer, numbers)) + b"t" for numbers in (shape, strides)]
    identity = text("storage") + asks("torch", kind) + text(key) + text("cpu") + integer(numel)
    storage = b"(" + identity + (b"Nt" if legacy else b"t") + b"Q"
    rebuild = asks("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + integer(offset) + b"".join(sizes)
    return b"\x80\x02}" + text("a") + rebuild + b"\x89" + asks("collections", "OrderedDict") + b")RtRs."


def archive(data: bytes) -> bytes:
    """A zip checkpoint whose object is the pickle `data`, with one storage of eight bytes."""
    file = io.BytesIO()
    contents = {"data.pkl": data, "byteorder": b"little", "version": b"3\n", "data/0": bytes(8)}
    with zipfile.ZipFile(file, "w") as records:
        for name, content in contents.items():
            records.writestr(f"archive/{name}", content)
    return file.getvalue()


def legacy_file(data: bytes) -> bytes:
    """A legacy checkpoint whose object is the pickle `data`, with one storage of eight bytes."""
    frame = b"\x80\x02" + integer(0x1950A86A20F9469CFC6C) + b".\x80\x02M\xe9\x03.\x80\x02}."
    return frame + data + b"\x80\x02]" + text("0") + b"a." + (2).to_bytes(8, "little") + bytes(8)
