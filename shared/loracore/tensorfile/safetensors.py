"""safetensors headers, read by an own reader: bounded, and exact where the library is lenient.

Format: eight bytes N, little-endian; N bytes of JSON, padded with spaces; the tensors' bytes, which must
tile the rest of the file without hole or overlap (the project's README, section "Format").
"""

from __future__ import annotations

import re
import struct
from collections import OrderedDict

import msgspec
from blake3 import blake3

from loracore.errors import MalformedFile
from loracore.tensorfile.container import (
    DTYPE_BITS,
    MAX_DIMENSIONS,
    MAX_HEADER,
    MAX_LAYERS,
    Arrangement,
    Container,
    Layer,
    Layout,
)
from loracore.tensorfile.source import Source

_METADATA = "__metadata__"
#: How every known writer begins a header that has metadata: an object of strings. In linear time, since
#: nothing in it is tried twice.
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_METADATA_FIRST = re.compile(
    rb'\{"__metadata__": ?+(\{(?:\s*+%b\s*+:\s*+%b\s*+,?+)*+\s*+\})' % (_STRING, _STRING), re.DOTALL
)
#: Keys that a header may have in all, its tensors' three included; counted before anything is parsed.
_KEYS = 4 * MAX_LAYERS + 100_000
#: Tensor tables that are remembered: files of one writer and architecture differ in their metadata alone.
_TABLES = 32


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Table(msgspec.Struct):
    """What the header says of the tensors, checked against the size of the file's data."""

    layout: Layout
    arrangement: Arrangement
    arrangement_signature: bytes
    metadata: dict[str, str]


_ENTRY = msgspec.json.Decoder(_Entry)
_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXTS = msgspec.json.Decoder(dict[str, str])
_tables: OrderedDict[tuple[bool, bytes, int], _Table] = OrderedDict()


def read_header(source: Source) -> Container:
    """Read and check the header. Raises MalformedFile with the first thing that is wrong."""
    if source.size < 8:
        raise MalformedFile("shorter than a safetensors header; download it again")
    prefix = source.read(0, 8)
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER:
        raise MalformedFile(f"its header claims {length} bytes, more than {MAX_HEADER}; not a safetensors file?")
    if 8 + length > source.size:
        raise MalformedFile("truncated inside its header; download it again")
    text = source.read(8, length)
    if not text.startswith(b"{"):
        raise MalformedFile("its header is not JSON; not a safetensors file?")
    if text.count(b'":') + text.count(b'" :') - text.count(b'\\":') - text.count(b'\\" :') > _KEYS:
        raise MalformedFile(f"its header has more than {_KEYS} keys")
    try:
        table, metadata = _parse(text, source.size - 8 - length)
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"its header cannot be read: {error}") from error
    return Container(
        format="safetensors",
        layout=table.layout,
        arrangement=table.arrangement,
        arrangement_signature=table.arrangement_signature,
        base=8 + length,
        bytes_read=source.bytes_read,
        metadata=metadata,
        residue=blake3(prefix + text).digest(),
    )


def _parse(text: bytes, data_bytes: int) -> tuple[_Table, dict[str, str]]:
    """The table of tensors, parsed only if no file with the same one was read lately; and the metadata.

    Where the metadata stand first, the rest of the text is the table, and the same text before the same
    number of bytes has the same meaning. Raises ValueError (msgspec's errors are such) and RecursionError.
    """
    metadata, end = _leading_metadata(text)
    key = (bool(end), blake3(text[end:]).digest(), data_bytes)
    table = _tables.pop(key, None)
    if table is None:
        entries, stated = _entries(text)
        table = _check(entries, data_bytes, stated)
    _tables[key] = table
    if len(_tables) > _TABLES:
        _tables.popitem(last=False)
    return table, metadata if end else table.metadata


def _leading_metadata(text: bytes) -> tuple[dict[str, str], int]:
    """The metadata where they stand first, and the byte at which they end; else nothing and 0.

    The strict parser has the last word on what is in them, as it has when the whole header is parsed.
    """
    first = _METADATA_FIRST.match(text)
    return (_TEXTS.decode(first[1]), first.end()) if first else ({}, 0)


def _entries(text: bytes) -> tuple[dict[str, _Entry], dict[str, str]]:
    raw = _RAW.decode(text)
    metadata = _TEXTS.decode(raw.pop(_METADATA, b"{}"))
    if len(raw) > MAX_LAYERS:
        raise MalformedFile(f"its header names {len(raw)} tensors, more than {MAX_LAYERS}")
    return {name: _ENTRY.decode(value) for name, value in raw.items()}, metadata


def _check(entries: dict[str, _Entry], data_bytes: int, metadata: dict[str, str]) -> _Table:
    layers = [_layer(name, entry) for name, entry in entries.items()]
    _check_tiling(layers, entries, data_bytes)
    layout = Layout(layers)
    arrangement = Arrangement([entries[layer.name].data_offsets[0] for layer in layout.layers])
    return _Table(layout, arrangement, arrangement.signature(layout), metadata)


def _layer(name: str, entry: _Entry) -> Layer:
    if entry.dtype not in DTYPE_BITS:
        raise MalformedFile(f"tensor {name[:80]!r} has the unknown dtype {entry.dtype[:20]!r}")
    if len(entry.shape) > MAX_DIMENSIONS or any(not 0 <= size < 1 << 63 for size in entry.shape):
        raise MalformedFile(f"tensor {name[:80]!r} has an impossible shape")
    return Layer(name, entry.dtype, entry.shape)


def _check_tiling(layers: list[Layer], entries: dict[str, _Entry], data_bytes: int) -> None:
    """The tensors must cover the data exactly once, in any order: no hole, overlap or tail."""
    end = 0
    for layer in sorted(layers, key=lambda layer: entries[layer.name].data_offsets):
        start, stop = entries[layer.name].data_offsets
        if start != end:
            what = "a hole before" if start > end else "bytes shared with the one before"
            raise MalformedFile(f"tensor {layer.name[:80]!r} has {what} it")
        if (stop - start) * 8 != DTYPE_BITS[layer.dtype] * _elements(layer.shape):
            raise MalformedFile(
                f"tensor {layer.name[:80]!r} has {stop - start} bytes, which is not its shape's size"
            )
        end = stop
    if end != data_bytes:
        state = "truncated, as by an interrupted download" if end > data_bytes else "longer than its tensors"
        raise MalformedFile(f"{state}: its tensors need {end} bytes, it holds {data_bytes}; download it again")


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
