"""torch checkpoints: the zip form that `torch.save` writes since 1.6, and the legacy form before it.

Zip: one record `NAME/data.pkl` with the object, one `NAME/data/KEY` for each storage, `NAME/byteorder`.
Legacy: five pickles (magic number, protocol, sys_info, the object, the storages' keys), then for each key
eight bytes with the number of elements and the elements (torch 2.13, `torch/serialization.py`, `_save`,
`_legacy_save`). Neither torch nor any class of a pickle is loaded: see `pickles`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod

from blake3 import blake3

from loracore.errors import MalformedFile, UnknownFormat
from loracore.tensorfile import pickles, safetensors
from loracore.tensorfile.container import Arrangement, Container, Layer, Layout, Strides
from loracore.tensorfile.pickle_names import DTYPES, Mapping, Storage, Tensor
from loracore.tensorfile.source import Source
from loracore.tensorfile.statedict import named_tensors, simple_metadata
from loracore.tensorfile.ziprecords import Record, read_directory, read_record, record_start

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
#: A pickle of protocol 0 has no mark of its own; one that asks for a name begins like this.
_BARE_PICKLE = re.compile(rb"[(\]}l)d]*[ci][A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n")
_WINDOW = 64 << 10
_PIECE = 1 << 20
_BIG_ENDIAN = "big-endian; load it with torch on such a machine and save it as safetensors"
#: Where a layer lies: zip record's local header (0 without records), and offset in it.
_Place = tuple[int, int]


def read_header(source: Source) -> Container:
    """Read and check the header of either form; the content decides which. It may even be safetensors'.

    Raises:
        UnknownFormat: it is something else: TorchScript, a tar, another pickle, no checkpoint.
        MalformedFile: it is damaged, truncated or hostile, or a tensor is no plain array.
        UnsafePickle: it asks for more than weights.
    """
    head = source.read(0, min(source.size, 512))
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(source)
    if head.startswith(b"\x80") or _BARE_PICKLE.match(head):
        return _read_legacy(source)
    if head[257:262] == b"ustar":
        raise UnknownFormat("a tar checkpoint of torch's first versions; load it with torch and save it again")
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < source.size:
        return safetensors.read_header(source)
    raise UnknownFormat("not a torch checkpoint")


def residue(source: Source, container: Container) -> bytes:
    """BLAKE3-256 over every byte range that no layer covers: start, length (eight bytes each) and the bytes.

    A layer with strides covers nothing: between its elements lie bytes that no layer digest sees.
    """
    arrangement = container.arrangement
    starts = {header: record_start(source, header) for header in set(arrangement.records)}
    covered = []
    for index, size in enumerate(container.layout.sizes):
        if size and index not in arrangement.strided:
            base = starts[arrangement.records[index]] if arrangement.records else container.base
            covered.append((base + arrangement.offsets[index], base + arrangement.offsets[index] + size))
    hasher = blake3()
    position = 0
    for start, end in [*sorted(covered), (source.size, source.size)]:
        if start > position:
            hasher.update(position.to_bytes(8, "little") + (start - position).to_bytes(8, "little"))
            for piece in range(position, start, _PIECE):
                hasher.update(source.read(piece, min(_PIECE, start - piece)))
        position = max(position, end)
    return hasher.digest()


def _read_zip(source: Source) -> Container:
    records = read_directory(source)
    prefix = _archive_name(records)
    order = records.get(prefix + b"byteorder")
    if order is not None and read_record(source, order, 16) != b"little":
        raise MalformedFile(_BIG_ENDIAN)
    loaded = pickles.load(read_record(source, records[prefix + b"data.pkl"], pickles.MAX_PICKLE))

    def place(storage: Storage) -> _Place:
        record = records.get(prefix + b"data/" + storage.key.encode("utf-8", "surrogatepass"))
        if record is None:
            raise MalformedFile(f"truncated: it has no record for storage {storage.key!r}; download it again")
        if not record.plain:
            raise MalformedFile(
                "its zip records are compressed or encrypted; load it with torch and save it again"
            )
        width = DTYPES[storage.dtype][0]
        if not storage.numel * width <= record.size < (storage.numel + 1) * width:
            raise MalformedFile(f"storage {storage.key!r} has {record.size} bytes, not {storage.numel} × {width}")
        return record.header, 0

    return _container(source, "torch-zip", loaded.value, place)


def _archive_name(records: dict[bytes, Record]) -> bytes:
    """The folder that all records of the checkpoint lie in, with its slash."""
    found = [name[:-8] for name in records if name.endswith(b"/data.pkl") and name.count(b"/") == 1]
    if len(found) != 1:
        raise UnknownFormat("a zip archive that is no torch checkpoint; unpack it")
    (prefix,) = found
    if prefix + b"constants.pkl" in records or any(name.startswith(prefix + b"code/") for name in records):
        raise UnknownFormat("a TorchScript program, not a checkpoint")
    return prefix


class _Stream:
    """Pickles that follow each other in a file; how long one is, only reading it tells."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.window = b""
        self.position = 0

    def load(self) -> pickles.Loaded:
        while True:
            try:
                loaded = pickles.load(self.window, self.position)
            except pickles.Incomplete:
                have = len(self.window)
                want = min(max(4 * have, _WINDOW), self.source.size, pickles.MAX_PICKLE)
                if want == have:
                    raise
                self.window += self.source.read(have, want - have)
            else:
                self.position = loaded.end
                return loaded


def _read_legacy(source: Source) -> Container:
    stream = _Stream(source)
    if stream.load().value != _MAGIC:
        raise UnknownFormat("a pickle, but not a torch checkpoint")
    if stream.load().value != _PROTOCOL:
        raise MalformedFile(f"its protocol is not {_PROTOCOL}; load it with torch and save it again")
    system = stream.load().value
    if isinstance(system, Mapping) and _says_big_endian(system):
        raise MalformedFile(_BIG_ENDIAN)
    loaded = stream.load()
    keys = stream.load().value
    if type(keys) is not list or not all(type(key) in (str, int) for key in keys):
        raise MalformedFile("its list of storages is damaged; download it again")
    starts: dict[str, int] = {}
    position = stream.position
    for key in map(str, keys):
        storage = loaded.storages.get(key)
        if storage is None or key in starts:
            raise MalformedFile("its list of storages names one twice, or one that no tensor has")
        starts[key] = position + 8
        position += 8 + storage.numel * DTYPES[storage.dtype][0]
    if len(starts) != len(loaded.storages) or position != source.size:
        raise MalformedFile(f"its storages need {position} bytes, it holds {source.size}; download it again")
    return _container(source, "torch-legacy", loaded.value, lambda storage: (0, starts[storage.key]))


def _says_big_endian(system: Mapping) -> bool:
    return any(
        key == "little_endian" and value is False for key, value in zip(system[::2], system[1::2], strict=True)
    )


def _container(source: Source, kind: str, value: object, place: Callable[[Storage], _Place]) -> Container:
    """The container of the object `value`, whose storages lie where `place` says."""
    tensors = named_tensors(value)
    layout = Layout(_layer(name, tensor) for name, tensor in tensors.items())
    if layout.nbytes > 8 * source.size + (64 << 20):
        raise MalformedFile(
            f"its tensors would need {layout.nbytes} bytes, far more than it has; save it after clone()"
        )
    offsets: list[int] = []
    records: list[int] = []
    strided: dict[int, Strides] = {}
    for index, layer in enumerate(layout.layers):
        record, start = place(tensors[layer.name].storage)
        offset, strides = _view(layer.name, tensors[layer.name])
        offsets.append(start + offset)
        records.append(record)
        if strides is not None:
            strided[index] = strides
    arrangement = Arrangement(offsets, records if kind == "torch-zip" else (), strided)
    signature = arrangement.signature(layout)
    return Container(kind, layout, arrangement, signature, 0, source.bytes_read, simple_metadata(value))


def _layer(name: str, tensor: Tensor) -> Layer:
    dtype = DTYPES[tensor.dtype][1] if tensor.dtype in DTYPES else None
    if dtype is None:
        raise MalformedFile(
            f"tensor {name[:80]!r} has torch's element type {tensor.dtype}, which safetensors lacks"
        )
    shape = tensor.shape
    if dtype == "F4":
        if not shape:
            raise MalformedFile(f"tensor {name[:80]!r} has half-byte elements and no dimension")
        shape = (*shape[:-1], 2 * shape[-1])
    return Layer(name, dtype, shape)


def _view(name: str, tensor: Tensor) -> tuple[int, Strides | None]:
    """Bytes from the storage's begin to the first element, and the strides where the order is not C's.

    Raises:
        MalformedFile: an element lies outside the storage.
    """
    storage = tensor.storage
    width, storage_width = DTYPES[tensor.dtype][0], DTYPES[storage.dtype][0]
    if not prod(tensor.shape):
        return 0, None
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if (tensor.offset + last + 1) * width > storage.length * storage_width:
        raise MalformedFile(f"tensor {name[:80]!r} reaches past the end of its storage")
    offset = storage.start * storage_width + tensor.offset * width
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size != 1:
            if stride != expected:
                return offset, Strides(tensor.strides, (last + 1) * width)
            expected *= size
    return offset, None
