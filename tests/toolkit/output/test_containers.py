"""Files by our writers, as the real libraries read them."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lorakit
from loracore.errors import FileError, UsageError
from loracore.tensorfile import Layer, open_container, open_regular, read_container
from lorakit.output import edited as edited_file
from lorakit.output.containers import container_of, writing
from lorakit.output.draft import Draft
from lorakit.output.edited import EditedFile

LAYERS = [
    Layer("b.weight", "F16", (3, 4)), Layer("a.weight", "F32", (2, 5)), Layer("a.alpha", "F32", ()),
    Layer("c.weight", "BF16", (7,)), Layer("empty", "F16", (0, 4)), Layer("ids", "I64", (3,)),
    Layer("ü 猫", "F8_E4M3", (5,)),
]  # fmt: skip


def values(layer: Layer) -> Any:
    rng = np.random.default_rng(sum(layer.name.encode()))
    return rng.standard_normal(layer.shape).astype(np.float32)


def write(path: Path, metadata: dict[str, str] | None = None) -> None:
    """In any order, from several threads, some layers as bytes and in pieces."""
    with writing(os.fsencode(path), LAYERS, metadata or {}) as writer:

        def give(layer: Layer) -> None:
            if layer.dtype == "I64":
                data = np.arange(3, dtype="<i8").tobytes()
                writer.give_bytes(layer.name, data[8:], 8)
                writer.give_bytes(layer.name, data[:8])
            else:
                writer.give(layer.name, values(layer))

        shuffled = random.Random(3).sample(LAYERS, len(LAYERS))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(give, shuffled))
        writer.finish()


def assert_holds_all(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == {layer.name for layer in LAYERS}
    for layer in LAYERS:
        if layer.dtype == "I64":
            assert found[layer.name].tolist() == [0, 1, 2]
        else:
            expected = torch.from_numpy(np.asarray(values(layer))).to(found[layer.name].dtype)
            assert torch.equal(found[layer.name].float(), expected.float())
            assert found[layer.name].shape == layer.shape


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    """Every dtype, an empty layer, a scalar, any name; and the metadata."""
    write(tmp_path / "a.safetensors", {"format": "pt", "ü": '猫\n"x"'})
    assert_holds_all(load_file(tmp_path / "a.safetensors"))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata()["ü"] == '猫\n"x"'


def test_the_file_is_laid_out_as_the_library_does(tmp_path: Path) -> None:
    """The header's length is a multiple of eight, layers are aligned, and the library finds the same layout."""
    write(tmp_path / "a.safetensors")
    ours = (tmp_path / "a.safetensors").read_bytes()
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    theirs = (tmp_path / "b.safetensors").read_bytes()
    sizes = [int.from_bytes(data[:8], "little") for data in (ours, theirs)]
    assert sizes[0] % 8 == 0
    one, other = (open_container(os.fsencode(tmp_path / name)) for name in ("a.safetensors", "b.safetensors"))
    assert one.layout.signature == other.layout.signature
    for container in (one, other):
        for layer, offset in zip(container.layout.layers, container.arrangement.offsets, strict=True):
            assert (container.base + offset) % {"I64": 8, "F32": 4, "F8_E4M3": 1}.get(layer.dtype, 2) == 0


def test_the_header_states_the_hash_of_what_follows(tmp_path: Path) -> None:
    """As kohya and ModelSpec define it."""
    write(tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    expected = sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"sshs_model_hash": expected, "modelspec.hash_sha256": f"0x{expected}"}
    assert lorakit.hashes(tmp_path / "a.safetensors")["sshs_model_hash"] == expected


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt"])
def test_torch_loads_checkpoints_with_weights_only(suffix: str, tmp_path: Path) -> None:
    """And our reader reads them without torch."""
    path = tmp_path / f"a.{suffix}"
    write(path)
    assert_holds_all(torch.load(path, weights_only=True))
    assert {layer.name for layer in open_container(os.fsencode(path)).layout.layers} == {
        layer.name for layer in LAYERS
    }


def test_a_file_is_there_when_it_is_finished(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pt"):
        with (
            pytest.raises(UsageError, match=r"NaN"),
            writing(os.fsencode(tmp_path / name), LAYERS[:1], {}) as writer,
        ):
            writer.give("b.weight", np.full((3, 4), np.nan))
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_disk_without_room_is_told_of(suffix: str, disk: Path) -> None:
    """Before anything is computed."""
    layer = Layer("x", "F32", (1 << 19,))

    def fill() -> None:
        with writing(os.fsencode(disk / f"a.{suffix}"), [layer], {}):
            pytest.fail("it was told too late")

    with pytest.raises(FileError, match=rf"a\.{suffix}: it cannot be written") as error:
        fill()
    assert "\n" not in str(error.value)
    assert os.listdir(disk) == []


def test_suffixes() -> None:
    assert container_of(b"/a/B.SafeTensors") == "safetensors"
    assert container_of(b"a.bin") == "torch-zip"
    for name in (b"a", b"a.txt", b"a.safetensors.gz"):
        with pytest.raises(UsageError, match=r"no container.*\.safetensors"):
            container_of(name)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("piece", [1 << 25, 7])
def test_an_edited_copy_has_all_other_bytes(
    elsewhere: bool, piece: int, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the source's own layout, also between two file systems, which cannot copy themselves; in any pieces."""
    monkeypatch.setattr(edited_file, "_PIECE", piece)
    folder = request.getfixturevalue("disk") if elsewhere else tmp_path
    write(tmp_path / "a.safetensors", {"title": "before"})
    changed = np.arange(10, dtype=np.float32).reshape(2, 5)
    with open_regular(os.fsencode(tmp_path / "a.safetensors")) as source:
        container = read_container(source, b"a.safetensors")
        with Draft(os.fsencode(folder / "b.safetensors")) as draft:
            edited = EditedFile(draft, source, container, {"title": "after"})
            for start, size in edited.ranges({"a.weight"}):
                edited.copy(start, size)
            edited.give_bytes("a.weight", changed[1:].tobytes(), 20)
            edited.give_bytes("a.weight", changed[:1].tobytes())
            edited.finish()
    before, after = load_file(tmp_path / "a.safetensors"), load_file(folder / "b.safetensors")
    assert torch.equal(after.pop("a.weight"), torch.from_numpy(changed))
    assert all(
        torch.equal(after[name].view(torch.uint8), before[name].view(torch.uint8))
        for name in after
        if after[name].ndim
    )
    with safe_open(folder / "b.safetensors", "pt") as file:
        assert file.metadata() == {"title": "after"}
    two = open_container(os.fsencode(folder / "b.safetensors"))
    assert two.arrangement.offsets == container.arrangement.offsets
