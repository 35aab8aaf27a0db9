"""safetensors headers: what the library writes is read exactly, and what is wrong is refused in one line."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loracore.errors import FileError, MalformedFile, UnknownFormat
from loracore.tensorfile import open_container
from tests.shared.tensorfile.reading import every_dtype, expected, read_layers

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(folder: Path, header: object, data: bytes = b"", *, length: int | None = None) -> str:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "layers.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return str(path)


def test_every_dtype_is_read(tmp_path: Path) -> None:
    """Every element type that the library can write comes back with its name, shape and bytes."""
    tensors = every_dtype()
    del tensors["layer.C128"]  # the library has no name for it
    path = str(tmp_path / "all.safetensors")
    save_file(tensors, path, {"ss_network_dim": "4"})
    assert read_layers(path) == expected(tensors)
    assert open_container(path).metadata == {"ss_network_dim": "4"}


def test_scalars_and_empty_layers_are_read(tmp_path: Path) -> None:
    """A tensor without dimensions has one element; one with a zero has none."""
    tensors = {"alpha": torch.tensor(4.0), "none": torch.zeros(0, 3), "w": torch.ones(2)}
    path = str(tmp_path / "small.safetensors")
    save_file(tensors, path)
    assert read_layers(path) == expected(tensors)


def test_only_the_header_is_read(tmp_path: Path) -> None:
    """The first pass reads the header and no byte of a weight."""
    path = write(tmp_path, {"a": ENTRY}, bytes(8))
    assert open_container(path).bytes_read == Path(path).stat().st_size - 8


def test_metadata_and_order_change_the_residue_only(tmp_path: Path) -> None:
    """Files with other metadata or order have one layout and other residues."""
    first = open_container(write(tmp_path, {"__metadata__": {"a": "1"}, "a": ENTRY}, bytes(8)))
    second = open_container(write(tmp_path, {"__metadata__": {"a": "2"}, "a": ENTRY}, bytes(8)))
    assert first.layout.signature == second.layout.signature
    assert first.residue != second.residue


HOSTILE = {
    "overlapping": ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}, bytes(12)),
    "the same place twice": ({"a": ENTRY, "b": ENTRY}, bytes(8)),
    "hole": ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [12, 20]}}, bytes(20)),
    "hole first": ({"a": {**ENTRY, "data_offsets": [4, 12]}}, bytes(12)),
    "tail": ({"a": ENTRY}, bytes(9)),
    "data cut off": ({"a": ENTRY}, bytes(7)),
    "wrong size": ({"a": {**ENTRY, "shape": [3]}}, bytes(8)),
    "negative shape": ({"a": {**ENTRY, "shape": [-2]}}, bytes(8)),
    "huge shape": ({"a": {**ENTRY, "shape": [1 << 62, 1 << 62]}}, bytes(8)),
    "zero times huge": ({"a": {"dtype": "F32", "shape": [0, 1 << 70], "data_offsets": [0, 0]}}, b""),
    "shape past 64 bits": ({"a": {**ENTRY, "shape": [1 << 64]}}, bytes(8)),
    "fractional shape": ({"a": {**ENTRY, "shape": [2.5]}}, bytes(8)),
    "negative offsets": ({"a": {**ENTRY, "data_offsets": [-8, 0]}}, bytes(8)),
    "huge offsets": ({"a": {**ENTRY, "data_offsets": [1 << 70, (1 << 70) + 8]}}, bytes(8)),
    "offsets reversed": ({"a": {**ENTRY, "data_offsets": [8, 0]}}, bytes(8)),
    "three offsets": ({"a": {**ENTRY, "data_offsets": [0, 8, 16]}}, bytes(8)),
    "unknown dtype": ({"a": {**ENTRY, "dtype": "F33"}}, bytes(8)),
    "dtype is a number": ({"a": {**ENTRY, "dtype": 7}}, bytes(8)),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "entry is null": ({"a": None}, b""),
    "too many dimensions": ({"a": {**ENTRY, "shape": [1] * 100_000}}, bytes(8)),
    "metadata is a list": ({"__metadata__": [], "a": ENTRY}, bytes(8)),
    "metadata holds numbers": ({"__metadata__": {"a": 1}, "a": ENTRY}, bytes(8)),
    "a list": (b"[]", b""),
    "not JSON": (b"{nonsense}", b""),
    "two objects": (b"{}{}", b""),
    "empty header": (b"", b""),
    "zeros": (bytes(64), b""),
    "deeply nested": (b'{"a":' + b"[" * 2_000_000, b""),
    "nested metadata": (b'{"__metadata__":' + b'{"a":' * 1_000_000, b""),
    "lone surrogate": (
        b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "not UTF-8": (b'{"\xff":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "a name twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
        bytes(16),
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused(tmp_path: Path, case: str) -> None:
    """A header that is not what the format promises is refused in one line that names the file."""
    path = write(tmp_path, *HOSTILE[case])
    with pytest.raises(MalformedFile) as caught:
        open_container(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [9, 1 << 20, 100 << 20, 1 << 40, (1 << 64) - 1])
def test_a_huge_header_is_not_believed(tmp_path: Path, length: int) -> None:
    """A length past the file's end or the limit is refused before anything is allocated."""
    with pytest.raises(MalformedFile):
        open_container(write(tmp_path, b"{}", length=length))


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    """A half-downloaded file is refused, whichever byte it stops at."""
    path = tmp_path / "cut.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2).half()}, str(path), {"k": "v"})
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(MalformedFile):
            open_container(str(path))


def test_files_without_layers_are_no_containers(tmp_path: Path) -> None:
    """A file without any layer is ignored, not failed."""
    with pytest.raises(UnknownFormat):
        open_container(write(tmp_path, {"__metadata__": {"a": "b"}}))


def test_layers_lie_in_any_order(tmp_path: Path) -> None:
    """Names may stand in any order in the header, as the format allows."""
    names = [f"layer.{index}" for index in range(50)]
    random.Random(1).shuffle(names)
    header = {
        name: {"dtype": "U8", "shape": [1], "data_offsets": [int(name[6:]), int(name[6:]) + 1]} for name in names
    }
    read = read_layers(write(tmp_path, header, bytes(range(50))))
    assert all(data == bytes([int(name[6:])]) for name, (_, _, data) in read.items())


def test_links_and_pipes_are_not_opened(tmp_path: Path) -> None:
    """Only regular files are read, never what a link or a pipe leads to."""
    path = write(tmp_path, {"a": ENTRY}, bytes(8))
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    with pytest.raises(FileError, match="symbolic link"):
        open_container(str(link))
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(FileError, match="regular"):
        open_container(str(tmp_path / "pipe.safetensors"))
    with pytest.raises(FileError, match="no such file"):
        open_container(str(tmp_path / "none.safetensors"))
