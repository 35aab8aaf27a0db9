"""`sshs_legacy_hash`: AutoV1's range over the file as kohya's trainer writes it with its `ss_*` metadata alone.

The trainer (kohya-ss/sd-scripts, `library/train_util.py`, `precalculate_safetensors_hashes`) serialises all
tensors again by the safetensors library, which writes `__metadata__` first even if it is empty, orders the tensors
by dtype, then name, and pads the header to a multiple of eight. Here only that header is made; of the tensors, no
more than the 64 KiB in the range are looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256

from loracore.tensorfile import Container
from lorakit.filehash.shared_read import Excerpt, Piece

#: AutoV1's range (AUTOMATIC1111/stable-diffusion-webui, the model hash of its first versions).
START, LENGTH = 0x100000, 0x10000

#: The library's order of dtypes (safetensors 0.8, `Dtype` from its end).
ORDER = (
    "U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E5M2FNUZ", "F8_E4M3FNUZ",
    "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "F6_E3M2", "F6_E2M3", "F4", "BOOL",
)  # fmt: skip
_RANK = {dtype: rank for rank, dtype in enumerate(ORDER)}


class LegacyHash:
    """The hash of a safetensors file whose bytes all go through `excerpt`."""

    def __init__(self, container: Container) -> None:
        layers = container.layout.layers
        written = all(layer.dtype in _RANK for layer in layers)
        order = sorted(
            range(len(layers)), key=lambda index: (_RANK.get(layers[index].dtype, 0), layers[index].name)
        )
        stated = {key: value for key, value in container.metadata.items() if key.startswith("ss_")}
        metadata = b'{"__metadata__":' + _json(stated)
        header = _header(container, order, metadata)
        #: Not for what the library cannot write; and it writes metadata in an order that differs from run to run.
        self._settled = written and (len(stated) <= 1 or 8 + len(metadata) <= START)
        self._head = header[START : START + LENGTH]
        pieces = list(_pieces(container, order, START - len(header)))
        self.excerpt = Excerpt(sum(piece.length for piece in pieces), pieces)

    def hexdigest(self) -> str | None:
        return sha256(self._head + self.excerpt.data).hexdigest()[:8] if self._settled else None


def _header(container: Container, order: Sequence[int], metadata: bytes) -> bytes:
    entries, end = [metadata], 0
    for index in order:
        layer = container.layout.layers[index]
        begin, end = end, end + layer.nbytes
        value = {"dtype": layer.dtype, "shape": layer.shape, "data_offsets": (begin, end)}
        entries.append(_json(layer.name) + b":" + _json(value))
    text = b",".join(entries) + b"}"
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _json(value: object) -> bytes:
    """As serde_json writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _pieces(container: Container, order: Sequence[int], start: int) -> Iterator[Piece]:
    """What lies in the range, which begins `start` bytes after the first tensor's (before it where negative)."""
    begin, end, position = max(0, start), max(0, start + LENGTH), 0
    for index in order:
        size = container.layout.sizes[index]
        first, last = max(begin, position), min(end, position + size)
        if first < last:
            place = container.base + container.arrangement.offsets[index] + first - position
            yield Piece(place, last - first, first - begin)
        position += size
