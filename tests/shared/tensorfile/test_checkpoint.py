"""torch checkpoints: both forms are read exactly as torch reads them, without torch and without a weight."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from safetensors.torch import save_file

from loracore.errors import FileError, MalformedFile, UnknownFormat
from loracore.tensorfile import Source, open_container, residue
from tests.shared.tensorfile.reading import every_dtype, expected, places, read_layers, save

both = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def typed(tensor: torch.Tensor) -> bool:
    """Whether torch has a storage class for the tensor's element type."""
    return tensor.dtype not in torch.storage._new_dtypes()  # type: ignore[no-untyped-call]


def views() -> dict[str, torch.Tensor]:
    """Views of all kinds: most do not lie in C order, and some share a storage."""
    base = torch.arange(240, dtype=torch.float32).reshape(2, 3, 4, 10)
    wide = torch.arange(48.0, dtype=torch.float64).view(torch.complex128).reshape(4, 6)
    return {
        "whole": base,
        "again": base,
        "transposed": base.transpose(0, 3),
        "permuted": base.permute(2, 0, 3, 1),
        "sliced": base[:, 1:, ::2, 3:7],
        "tail": base[1],
        "last": base[1, 2, 3, 9],
        "expanded": torch.arange(5, dtype=torch.int16).reshape(5, 1).expand(5, 7),
        "spread": torch.tensor([7], dtype=torch.int8).expand(3, 4),
        "middle": torch.arange(6, dtype=torch.float64).reshape(2, 1, 3).expand(2, 4, 3),
        "ones": base.reshape(240)[3:4].as_strided((1, 1, 1), (7, 5, 3)),
        "complex": wide.t(),
        "empty": base[:0],
        "emptier": torch.zeros(3, 0, 2),
        "scalar": torch.tensor(3, dtype=torch.bfloat16),
        "bytes": torch.arange(60, dtype=torch.uint8).view(torch.float8_e4m3fn).reshape(6, 10).t(),
        "halves": torch.arange(60, dtype=torch.uint8).view(torch.float4_e2m1fn_x2).reshape(6, 10)[::2],
        "window": torch.arange(30, dtype=torch.int64).as_strided((5, 4), (2, 1)),
    }


@both
@pytest.mark.parametrize("make", [every_dtype, views])
def test_layers_are_what_torch_loads(tmp_path: Path, make: Any, legacy: bool) -> None:
    """Every layer has the dtype, the shape and the bytes that torch.load gives, views and all."""
    path = save(str(tmp_path / "file.pt"), make(), legacy=legacy)
    read = read_layers(path)
    assert read == expected(make())
    if legacy:
        # torch cannot load the newer element types from the form that it itself wrote.
        path = save(path, {name: tensor for name, tensor in make().items() if typed(tensor)}, legacy=True)
    for name, layer in expected(torch.load(path, weights_only=True)).items():
        assert read[name] == layer


@both
@pytest.mark.parametrize("chunk", [16, 24, 1000])
def test_views_are_gathered_in_pieces(tmp_path: Path, legacy: bool, chunk: int) -> None:
    """However small the pieces, a view's bytes come in C order."""
    path = save(str(tmp_path / "file.pt"), views(), legacy=legacy)
    assert read_layers(path, chunk=chunk) == expected(views())


def test_the_container_does_not_matter(tmp_path: Path) -> None:
    """The same tensors in safetensors, zip, legacy and wrapped have one layout and the same bytes."""
    tensors = {f"{name}.lora_down.weight": tensor for name, tensor in every_dtype().items() if "C128" not in name}
    ordered = OrderedDict(tensors)
    ordered._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    parameters = {
        name: torch.nn.Parameter(tensor) if tensor.is_floating_point() and tensor.itemsize > 1 else tensor
        for name, tensor in tensors.items()
    }
    paths = [str(tmp_path / "0.safetensors")]
    save_file(tensors, paths[0])
    wrapped: tuple[object, ...] = (
        tensors,
        ordered,
        parameters,
        {"state_dict": ordered, "epoch": 3},
        {"epoch": 3, "model": tensors, "config": {"lr": 1e-4, "names": ["a", {"b": None}]}},
    )
    for index, value in enumerate(wrapped):
        for legacy in (False, True):
            paths.append(save(str(tmp_path / f"{index}{legacy}.ckpt"), value, legacy=legacy))
    assert len({open_container(path).layout.signature for path in paths}) == 1
    first = read_layers(paths[0])
    assert all(read_layers(path) == first for path in paths)


@both
def test_no_weight_is_read(tmp_path: Path, legacy: bool) -> None:
    """Reading the layout costs the directory and the pickle, not the storages."""
    path = save(str(tmp_path / "file.pt"), {"a": torch.ones(1 << 20)}, legacy=legacy)
    assert open_container(path).bytes_read <= (64 << 10) + 512


def test_neither_torch_nor_numpy_is_loaded(tmp_path: Path) -> None:
    """Reading a checkpoint, views too, loads neither torch nor numpy."""
    path = save(str(tmp_path / "file.pt"), views())
    script = (
        "import sys, os; from loracore.tensorfile import *\n"
        "from loracore.tensorfile.strided import gather\n"
        "from loracore.tensorfile.ziprecords import record_start\n"
        "c = open_container(sys.argv[1]); fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "i, s = next(iter(c.arrangement.strided.items()))\n"
        "at = record_start(Source(fd, os.fstat(fd).st_size), c.arrangement.records[i])\n"
        "at += c.arrangement.offsets[i]\n"
        "assert sum(map(len, gather(fd, at, c.layout.layers[i], s, 1000))) == c.layout.sizes[i]\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True, timeout=60)


@both
def test_nested_containers_are_joined_with_dots(tmp_path: Path, legacy: bool) -> None:
    """Two state dicts side by side keep their prefixes; lists and integer keys become numbers."""
    one = torch.ones(1)
    value = {"unet": {"a": one}, "text": {"b": [one, (one, None)], 7: one}, "step": 1}
    read = read_layers(save(str(tmp_path / "file.pt"), value, legacy=legacy))
    assert sorted(read) == ["text.7", "text.b.0", "text.b.1.0", "unet.a"]


def test_a_wrapper_beside_other_tensors_keeps_its_name(tmp_path: Path) -> None:
    """Only a lone state dict is unwrapped: beside an optimiser's tensors it is one part among others."""
    one = torch.ones(1)
    path = save(str(tmp_path / "file.pt"), {"state_dict": {"a": one}, "optimizer": {"state": {0: {"m": one}}}})
    assert sorted(read_layers(path)) == ["optimizer.state.0.m", "state_dict.a"]


def test_short_values_beside_the_tensors_are_metadata(tmp_path: Path) -> None:
    """Texts and numbers at the top are metadata; what is long or no scalar is left out."""
    value = {
        "a": torch.ones(1),
        "ss_network_dim": "8",
        "step": 5,
        "lr": 0.5,
        "long": "x" * 70_000,
        "l": [1],
        "n": None,
    }
    metadata = open_container(save(str(tmp_path / "file.pt"), value)).metadata
    assert metadata == {"ss_network_dim": "8", "step": "5", "lr": "0.5"}


REFUSED: dict[str, tuple[Any, type[FileError], str]] = {
    "one name twice": (lambda: {"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, MalformedFile, "name"),
    "number and text": (lambda: {1: torch.ones(1), "1": torch.ones(1)}, MalformedFile, "name"),
    "under no text": (lambda: {(1, 2): torch.ones(1)}, MalformedFile, "not text"),
    "sparse": (lambda: {"a": torch.eye(3).to_sparse()}, MalformedFile, "sparse"),
    "quantised": (
        lambda: {"a": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)},
        MalformedFile,
        "quantised",
    ),
    "lazy conjugate": (
        lambda: {"a": torch.ones(2, dtype=torch.complex64).conj()},
        MalformedFile,
        "resolve_conj",
    ),
    "no data": (lambda: {"a": torch.ones(2, device="meta")}, MalformedFile, "meta"),
    "no name for its type": (lambda: {"a": torch.ones(2, dtype=torch.complex32)}, MalformedFile, "complex32"),
    "a bare tensor": (lambda: torch.ones(2), UnknownFormat, "no dict"),
    "no layer": (lambda: {"a": 1}, UnknownFormat, "no layer"),
}


@both
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_laid_out_is_refused(tmp_path: Path, case: str, legacy: bool) -> None:
    """A tensor that is not plain bytes under one name is refused with the reason."""
    make, error, words = REFUSED[case]
    path = save(str(tmp_path / "file.pt"), make(), legacy=legacy)
    with pytest.raises(error, match=words) as caught:
        open_container(path)
    assert "\n" not in str(caught.value)


@both
def test_an_expanded_bomb_is_refused(tmp_path: Path, legacy: bool) -> None:
    """Four bytes expanded to terabytes are refused."""
    value = {"a": torch.ones(1).expand(1 << 20, 1 << 20)}
    with pytest.raises(MalformedFile, match="far more"):
        open_container(save(str(tmp_path / "file.pt"), value, legacy=legacy))


@both
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, legacy: bool) -> None:
    """A half-downloaded checkpoint is refused, whichever byte it stops at."""
    path = Path(save(str(tmp_path / "file.pt"), {"a": torch.ones(3), "b": torch.ones(2).half()}, legacy=legacy))
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises((MalformedFile, UnknownFormat)) as caught:
            open_container(str(path))
        assert end < 20 or isinstance(caught.value, MalformedFile)


@both
def test_the_residue_and_the_layers_cover_the_file(tmp_path: Path, legacy: bool) -> None:
    """Changing any byte of a checkpoint changes a layer or the residue (or it is refused)."""
    value = {"a": torch.arange(9.0).reshape(3, 3)[:, :2], "b": torch.arange(3, dtype=torch.int16)}
    path = Path(save(str(tmp_path / "file.pt"), value, legacy=legacy))
    whole = bytearray(path.read_bytes())

    def state() -> object:
        container = open_container(str(path))
        with path.open("rb") as file:
            source = Source(file.fileno(), len(whole))
            digest = residue(source, container)
        assert source.bytes_read > 0
        return digest, read_layers(str(path))

    before = state()
    for index in range(len(whole)):
        whole[index] ^= 0x10
        path.write_bytes(whole)
        with contextlib.suppress(FileError):
            assert state() != before, index
        whole[index] ^= 0x10
    path.write_bytes(whole)
    assert state() == before


def test_the_residue_is_what_it_says(tmp_path: Path) -> None:
    """The residue is the BLAKE3 of place, length and bytes of each range between the layers."""
    path = save(str(tmp_path / "file.pt"), {"a": torch.ones(5), "b": torch.ones(700)}, legacy=True)
    whole = Path(path).read_bytes()
    container = open_container(path)
    covered = set()
    with open(path, "rb") as file:
        source = Source(file.fileno(), len(whole))
        for _, start, length in places(source, container):
            covered.update(range(start, start + length))
        digest = residue(source, container)
    text = b""
    position = 0
    while position < len(whole):
        start = position
        while position < len(whole) and position not in covered:
            position += 1
        if position > start:
            text += start.to_bytes(8, "little") + (position - start).to_bytes(8, "little") + whole[start:position]
        position += position in covered
    assert digest == blake3(text).digest()


def rewrite(path: str, change: Any, compression: int = zipfile.ZIP_STORED) -> str:
    """Write the archive anew with Python's zipfile; `change(name, data)` gives each record, or None."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            changed = change(name, data)
            if changed is not None:
                archive.writestr(name, changed)
    return path


def test_another_writers_zip_is_read(tmp_path: Path) -> None:
    """An archive that another tool packed anew is read, with or without a byte order mark."""
    path = save(str(tmp_path / "file.pt"), views())
    rewrite(path, lambda name, data: None if name.endswith("byteorder") else data)
    assert read_layers(path) == expected(views())


ARCHIVES: dict[str, tuple[Any, int, type[FileError], str]] = {
    "compressed": (lambda name, data: data, zipfile.ZIP_DEFLATED, MalformedFile, "compressed"),
    "big-endian": (
        lambda name, data: b"big" if name.endswith("byteorder") else data,
        0,
        MalformedFile,
        "big-endian",
    ),
    "no storage": (lambda name, data: None if "/data/0" in name else data, 0, MalformedFile, "no record"),
    "short storage": (
        lambda name, data: data[:3] if "/data/0" in name else data,
        0,
        MalformedFile,
        "bytes, not",
    ),
    "long storage": (
        lambda name, data: data + bytes(90) if "/data/0" in name else data,
        0,
        MalformedFile,
        "bytes, not",
    ),
    "no pickle": (
        lambda name, data: None if "data.pkl" in name else data,
        0,
        UnknownFormat,
        "no torch checkpoint",
    ),
    "damaged pickle": (
        lambda name, data: b"\x80\x02\xff." if "data.pkl" in name else data,
        0,
        MalformedFile,
        "damaged",
    ),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_is_no_checkpoint_is_refused(tmp_path: Path, case: str) -> None:
    """Compressed, big-endian or incomplete archives are refused, each by its name."""
    change, compression, error, words = ARCHIVES[case]
    path = rewrite(save(str(tmp_path / "file.pt"), {"a": torch.ones(100)}), change, compression)
    with pytest.raises(error, match=words):
        open_container(path)


@pytest.mark.filterwarnings("ignore")
def test_other_contents_are_ignored_with_a_word(tmp_path: Path) -> None:
    """A suffix does not make a checkpoint: the content is looked at, and the reason says what it is."""
    path = tmp_path / "file.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(UnknownFormat, match="TorchScript"):
        open_container(str(path))
    save_file({"a": torch.ones(2)}, str(path))
    assert open_container(str(path)).format == "safetensors"
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "pickle")
    with pytest.raises(UnknownFormat, match="tar"):
        open_container(str(path))
    for content in (b"GGUF" + bytes(100), b"x", os.urandom(4) + b"0" * 1000, b"\x80\x02K\x01."):
        path.write_bytes(content)
        with pytest.raises((UnknownFormat, MalformedFile)):
            open_container(str(path))
    path.write_bytes(b"")
    with pytest.raises(MalformedFile, match="empty"):
        open_container(str(path))


def test_many_records_are_read(tmp_path: Path) -> None:
    """A checkpoint of 2,100 tensors is read in well under a second, in both forms."""
    tensors = {
        f"lora_unet_block_{index}.lora_down.weight": torch.full((2,), float(index)) for index in range(2100)
    }
    for legacy in (False, True):
        path = save(str(tmp_path / f"{legacy}.pt"), tensors, legacy=legacy)
        assert read_layers(path) == expected(tensors)


def test_a_storage_with_a_rest_is_read(tmp_path: Path) -> None:
    """A storage whose size is no multiple of its element's is read as far as torch reads it."""
    tensors = {"a": torch.arange(10, dtype=torch.uint8)[:8].view(torch.float32)}
    path = save(str(tmp_path / "file.pt"), tensors)
    assert read_layers(path) == expected(tensors)
