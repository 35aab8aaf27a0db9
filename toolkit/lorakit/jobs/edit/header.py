"""A safetensors header with all of its text, and another one for the same data.

The strict reader has the first word, and also looks at what is made here before it gets a name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from loracore.errors import FileError, MalformedFile
from loracore.tensorfile import Container, Source, read_container
from loracore.tensorfile.container import MAX_HEADER

_METADATA = "__metadata__"
_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXTS = msgspec.json.Decoder(dict[str, str])


@dataclass(frozen=True)
class Header:
    """`raw`: the eight bytes of its length, and its text. `container`: what the strict reader says of it."""

    raw: bytes
    container: Container

    @property
    def metadata(self) -> dict[str, str]:
        return self.container.metadata

    @property
    def layers(self) -> list[str]:
        return [layer.name for layer in self.container.layout.layers]


def read_header(source: Source) -> Header:
    """The header of an open file.

    Raises:
        FileError: it is no safetensors file, damaged, or has a key twice, so that readers differ on what it says.
    """
    container = read_container(source, b"x.safetensors")
    if container.format != "safetensors":
        raise FileError("a checkpoint under another suffix; make a safetensors file of it by `loractl convert`")
    raw = source.read(0, container.base)
    try:
        json.loads(raw[8:], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"its header {error}; it is not edited") from error
    return Header(raw, container)


def with_metadata(header: Header, metadata: Mapping[str, str], block: int) -> bytes:
    """The same header with other metadata. `block`: the data lies at the same place within a block as before.

    So a file system can share the data's blocks. The text of all else is as it was. Raises FileError.
    """
    tensors: dict[str, msgspec.Raw] = _RAW.decode(header.raw[8:])
    tensors.pop(_METADATA, None)
    entries: dict[str, Any] = {_METADATA: dict(metadata), **tensors} if metadata else dict(tensors)
    try:
        text = msgspec.json.encode(entries)
    except UnicodeError as error:
        raise FileError("a text of its header, or of the new one, is no Unicode; give another") from error
    wanted = 8 + len(text)
    length = wanted + (header.container.base - wanted) % block
    if length - 8 > MAX_HEADER:
        raise FileError(f"its header would be longer than {MAX_HEADER} bytes, which lorad does not read; set less")
    return (length - 8).to_bytes(8, "little") + text.ljust(length - 8)


def metadata_of(raw: bytes) -> dict[str, str]:
    """The entries of a header that was read once, with its length. Raises FileError where it is damaged."""
    try:
        found: dict[str, msgspec.Raw] = _RAW.decode(raw[8:])
        return _TEXTS.decode(found.get(_METADATA, b"{}"))
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"the old header in the journal is damaged: {error}") from error


def check_made(made: Source, header: Header, metadata: Mapping[str, str]) -> None:
    """Whether the strict reader finds in a new file the same tensors at the same places, and these entries.

    Raises FileError.
    """
    found, before = read_header(made).container, header.container
    same = (found.layout.encoded, found.arrangement) == (before.layout.encoded, before.arrangement)
    if not same or found.metadata != dict(metadata):
        raise FileError("the new header does not say what it should; nothing was changed, please report it")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"has the key {twice[:80]!r} twice")
    return made
