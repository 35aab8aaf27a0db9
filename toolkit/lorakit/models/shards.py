"""Which files a model consists of, and by what they are known again.

A model is one file, a Transformers folder (sharded or not), or a diffusers folder.

A folder's index (`*.safetensors.index.json`, `*.bin.index.json`, as `save_pretrained(max_shard_size=…)` writes
it) has the word; without one, all weight files of the folder count. A diffusers folder has a folder for each
component.

The files of a model are known again by BLAKE3 of all their bytes. SHA-256, as LoRAs are looked up by, would cost a
multiple of the time that reading them takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from blake3 import blake3

from loracore.errors import FileError, MalformedFile, UnknownFormat
from loracore.jobs.job import Context
from loracore.paths import shown
from loracore.tensorfile import Source, has_reader, open_regular
from loracore.tensorfile.recognise import recognised

_INDEX = b".index.json"
#: Weight files that stand for a model by themselves, in the order in which libraries look for them.
ALONE = (
    b"model.safetensors", b"diffusion_pytorch_model.safetensors",
    b"pytorch_model.bin", b"diffusion_pytorch_model.bin",
)  # fmt: skip
_SUFFIXES = ((b".safetensors",), (b".bin", b".pt", b".pth", b".ckpt"))
#: What lies beside weights and is none, or is the same weights in the maker's own form.
_BESIDE = (b"adapter_model", b"training_args", b"optimizer", b"scheduler", b"rng_state", b"consolidated")
#: The index of the largest known model is a tenth of this.
_MAX_INDEX = 64 << 20


class Shard(NamedTuple):
    """A weight file. `component`: which folder of a diffusers model it lies in, or nothing.

    `expected`: the layers that the index promises to be in it; None without an index.
    """

    path: bytes
    component: str
    expected: frozenset[str] | None = None


class Found(NamedTuple):
    """The files of a model, and what of its folder is to be known."""

    shards: tuple[Shard, ...]
    warnings: tuple[str, ...]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


_INDEXES = msgspec.json.Decoder(_Index)


def find(path: bytes) -> Found:
    """The weight files of the model at `path`.

    Raises:
        UnknownFormat: there is no weight file.
        MalformedFile: an index is none, or leads out of its folder.
        FileError: nothing is there, or a shard that the index names is not.
    """
    if not os.path.isdir(path):
        if not os.path.exists(path):
            raise FileError("it is not there; give a model file, or a folder with one", os.fsdecode(path))
        return Found((Shard(path, ""),), ())
    own = _of_folder(path, "")
    if own is not None:
        return own
    components = [found for name in _folders(path) if (found := _of_folder(os.path.join(path, name), _text(name)))]
    if not components:
        raise UnknownFormat(
            "a folder without weights: no .safetensors or .bin in it, nor in the folders in it", os.fsdecode(path)
        )
    shards = tuple(shard for found in components for shard in found.shards)
    return Found(shards, tuple(warning for found in components for warning in found.warnings))


def _of_folder(folder: bytes, component: str) -> Found | None:
    """The weight files that lie in `folder` itself; None without any."""
    files = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    for kind in (b".safetensors", b".bin"):
        index = _index_of(files, kind)
        if index is not None:
            return _by_index(folder, index, files, component)
    for name in ALONE:
        if name in files:
            return Found((Shard(os.path.join(folder, name), component),), ())
    for suffixes in _SUFFIXES:
        weights = [name for name in files if name.lower().endswith(suffixes) and not name.startswith(_BESIDE)]
        if weights:
            return Found(tuple(Shard(os.path.join(folder, name), component) for name in weights), ())
    return None


def _index_of(files: Sequence[bytes], kind: bytes) -> bytes | None:
    """The index of this kind; that without a variant (`model.safetensors.index.fp16.json`) is the shortest."""
    found = [name for name in files if name.endswith(kind + _INDEX) and not name.startswith(_BESIDE)]
    return min(found, key=lambda name: (len(name), name)) if found else None


def _by_index(folder: bytes, index: bytes, files: Sequence[bytes], component: str) -> Found:
    place = os.path.join(folder, index)
    shown = os.fsdecode(place)
    expected: dict[bytes, set[str]] = {}
    for layer, file in _read(place).weight_map.items():
        name = os.fsencode(file)
        if os.path.basename(name) != name or name in {b"", b".", b".."} or b"\\" in name or b"\0" in name:
            raise MalformedFile(
                f"it leads to {file[:80]!r}, out of its folder; it may only name files there", shown
            )
        if not has_reader(name):
            raise MalformedFile(f"it leads to {file[:80]!r}, which is no weight file; download it again", shown)
        expected.setdefault(name, set()).add(layer)
    if not expected:
        raise MalformedFile("it names no layer; download it again", shown)
    missing = sorted(name for name in expected if not os.path.exists(os.path.join(folder, name)))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FileError(f"shard {os.fsdecode(missing[0])}{more} is not there; download it again", shown)
    suffix = os.path.splitext(min(expected))[1]
    strays = [
        name for name in files if name.endswith(suffix) and name not in expected and not name.startswith(_BESIDE)
    ]
    warnings = tuple(
        f"{os.fsdecode(os.path.join(folder, name))}: not in the index, so left out" for name in strays
    )
    shards = [
        Shard(os.path.join(folder, name), component, frozenset(layers))
        for name, layers in sorted(expected.items())
    ]
    return Found(tuple(shards), warnings)


def _read(path: bytes) -> _Index:
    # The Hub's cache has links to its blobs, which are followed; what an index names is not.
    try:
        with open_regular(os.path.realpath(path)) as source:
            if source.size > _MAX_INDEX:
                raise MalformedFile(f"longer than {_MAX_INDEX:,} bytes, which no index is")
            try:
                return _INDEXES.decode(source.read(0, source.size))
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                wrong = MalformedFile(f"no index of shards: {error}; download it again")
                raise recognised(source, wrong) from error
    except FileError as error:
        error.path = os.fsdecode(path)
        raise


def _folders(path: bytes) -> list[bytes]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith(b"."))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


#: Bytes that are read at once: enough for several threads of BLAKE3.
_PIECE = 1 << 24


class Hashed(NamedTuple):
    """A file's name as it is told, and its hash in hex."""

    name: str
    blake3: str


def hashed(
    model: bytes, files: Sequence[tuple[bytes, Source]], context: Context, told: Callable[[int], object]
) -> tuple[Hashed, ...]:
    """Of each (path, open file) of a model; `told` hears of bytes that are done. Raises FileError."""
    buffer = memoryview(bytearray(min(_PIECE, max((source.size for _, source in files), default=0))))
    return tuple(
        Hashed(_name(model, path), _digest(path, source, buffer, context, told)) for path, source in files
    )


def _digest(
    path: bytes, source: Source, buffer: memoryview, context: Context, told: Callable[[int], object]
) -> str:
    digest = blake3(max_threads=max(1, context.threads))
    try:
        for start in range(0, source.size, _PIECE):
            piece = buffer[: min(_PIECE, source.size - start)]
            source.read_into(piece, start)
            digest.update(piece)
            told(len(piece))
    except FileError as error:
        error.path = os.fsdecode(path)
        raise
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}", os.fsdecode(path)) from error
    return digest.hexdigest()


def _name(model: bytes, path: bytes) -> str:
    """The model's own name, and for a folder the file's below it."""
    top = os.path.basename(os.path.normpath(model))
    return shown(os.path.normpath(os.path.join(top, os.path.relpath(path, model))))
