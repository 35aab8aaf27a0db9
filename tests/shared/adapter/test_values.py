"""Values as torch has them, from every container and dtype."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loracore.adapter import read_adapter
from loracore.adapter.reading import TensorReader
from loracore.adapter.values import upcast
from loracore.errors import FileError, MalformedFile
from loracore.tensorfile import Layer
from tests.builders.architectures import sd15
from tests.builders.weights import random_weights
from tests.builders.write import save_checkpoint, write_safetensors
from tests.shared.adapter.measures import by_key, randn, read

EIGHT_BITS = {
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip


@pytest.mark.parametrize("dtype", EIGHT_BITS)
def test_eight_bit_floats_have_torchs_values(dtype: str) -> None:
    """All 256 codes mean what torch says, NaN and infinities included."""
    codes = torch.arange(256, dtype=torch.uint8)
    expected = codes.view(EIGHT_BITS[dtype]).double().numpy()
    found = upcast(Layer("x", dtype, (256,)), bytes(range(256)), np.dtype(np.float64))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("dtype", "kind"), [("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_sixteen_bit_floats_have_torchs_values(dtype: str, kind: torch.dtype) -> None:
    """All 65536 codes are upcast exactly to float32."""
    codes = np.arange(1 << 16, dtype="<u2")
    expected = torch.from_numpy(codes.view("<i2")).view(kind).float().numpy()
    with np.errstate(invalid="ignore"):
        found = upcast(Layer("x", dtype, (1 << 16,)), codes.tobytes(), np.dtype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["F4", "C64", "F6_E2M3"])
def test_dtypes_without_plain_values_are_refused_by_name(dtype: str) -> None:
    """The error names the layer and its dtype."""
    with pytest.raises(MalformedFile, match=f"layer 'x' is {dtype}"):
        upcast(Layer("x", dtype, (8,)), bytes(64), np.dtype(np.float32))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8,
              torch.float8_e4m3fn],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_an_alpha_is_read_whatever_its_dtype(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """The number is exact, and of one element whatever its dimensions."""
    path = os.fspath(tmp_path / "a.safetensors")
    layers = {"lora_unet_x.lora_down.weight": randn(4, 8), "lora_unet_x.lora_up.weight": randn(8, 4)}
    save_file(layers | {"lora_unet_x.alpha": torch.full(shape, 3, dtype=dtype)}, path)
    with read_adapter(path) as adapter:
        assert [(module.alpha, module.scale) for module in adapter.modules] == [(3.0, 0.75)]


def test_what_stands_in_the_header_is_told_without_numpy(tmp_path: Path) -> None:
    """Names, shapes, ranks and alphas are read before numpy is loaded, which takes longer than they do."""
    path = os.fspath(tmp_path / "a.safetensors")
    write_safetensors(path, random_weights(sd15(4, width=16, every=12), 1, alpha=2.0))
    program = (
        "import sys; from loracore.adapter import read_adapter; adapter = read_adapter(sys.argv[1]);"
        "assert {module.alpha for module in adapter.modules} == {2.0}; assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True)


def test_every_container_gives_the_same_adapter(tmp_path: Path) -> None:
    """safetensors, torch's zip, its older form and a training checkpoint hold the same modules and values."""
    layers = random_weights(sd15(4, width=16, every=12), 1, alpha=2.0)
    paths = [
        write_safetensors(os.fspath(tmp_path / "a.safetensors"), layers),
        save_checkpoint(os.fspath(tmp_path / "b.pt"), layers),
        save_checkpoint(os.fspath(tmp_path / "c.pt"), layers, legacy=True),
        save_checkpoint(os.fspath(tmp_path / "d.ckpt"), layers, nested="state_dict"),
    ]
    first, *others = map(read_adapter, paths)
    assert [other.format for other in others] == ["torch-zip", "torch-legacy", "torch-zip"]
    for other in others:
        assert [module.name for module in other.modules] == [module.name for module in first.modules]
        for one, two in zip(first.modules, other.modules, strict=True):
            assert (one.scale, one.shape, one.rank) == (two.scale, two.shape, two.rank)
            np.testing.assert_array_equal(one.delta(), two.delta())


def test_views_are_read_in_their_own_order(tmp_path: Path) -> None:
    """A transposed view in a checkpoint has the values that torch sees."""
    down, up = randn(8, 4).T, randn(4, 16).T
    torch.save({"x.lora_down.weight": down, "x.lora_up.weight": up}, tmp_path / "views.pt")
    (module,) = read_adapter(os.fspath(tmp_path / "views.pt")).modules
    np.testing.assert_array_equal(module.tensor("down"), down.numpy())
    np.testing.assert_allclose(module.delta(), (up @ down).numpy(), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_rows_are_those_of_the_whole(dtype: torch.dtype, tmp_path: Path) -> None:
    """In every container, of views too; no more bytes are read where they lie in order."""
    tensors = {"a": randn(9, 4, 3).to(dtype), "b": randn(5, 7).to(dtype)}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "b.pt")
    torch.save(
        {"a": tensors["a"].transpose(0, 1).contiguous().transpose(0, 1), "b": tensors["b"]}, tmp_path / "c.pt"
    )
    for name in ("a.safetensors", "b.pt", "c.pt"):
        reader = TensorReader(os.fsencode(tmp_path / name), name)
        before = reader.source.bytes_read
        found = reader.read_rows("a", 2, 5)
        if name == "a.safetensors":
            assert reader.source.bytes_read - before == found.size * dtype.itemsize
        np.testing.assert_array_equal(found, tensors["a"][2:5].float().numpy())
        np.testing.assert_array_equal(reader.read_rows("b", 0, 5), reader.read("b"))
        reader.close()
        with pytest.raises(FileError, match="closed"):
            reader.read_rows("b", 0, 1)


def test_a_closed_adapter_says_so(tmp_path: Path) -> None:
    """Names remain, values raise an error that names the file; a `with` block closes."""
    path = os.fspath(tmp_path / "a.safetensors")
    with read(path, {"x.lora_down.weight": randn(2, 3), "x.lora_up.weight": randn(3, 2)}) as adapter:
        module = adapter.modules[0]
        assert module.delta().shape == (3, 3)
    assert module.rank == 2
    with pytest.raises(FileError, match=r"a\.safetensors: closed"):
        module.delta()


def test_a_link_is_followed(tmp_path: Path) -> None:
    """Model caches keep blobs without suffix and links to them; the link's name says what it is."""
    read(
        os.fspath(tmp_path / "x.safetensors"), {"x.lora_down.weight": randn(2, 3), "x.lora_up.weight": randn(3, 2)}
    )
    os.rename(tmp_path / "x.safetensors", tmp_path / "blob")
    os.symlink("blob", tmp_path / "link.safetensors")
    assert len(read_adapter(os.fspath(tmp_path / "link.safetensors")).modules) == 1


def test_what_cannot_be_read_at_all_is_an_error_with_the_name(tmp_path: Path) -> None:
    """No file, no container and a folder without weights: one line that names it."""
    for name, content in (("none.safetensors", None), ("bad.safetensors", b"x" * 20), ("text.txt", b"hello")):
        if content:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=name):
            read_adapter(os.fspath(tmp_path / name))
    with pytest.raises(FileError, match="adapter_model"):
        read_adapter(os.fspath(tmp_path))


def test_a_control_lora_is_read(tmp_path: Path) -> None:
    """Stability's Control-LoRA: factors, whole tensors beside them, and a marker that is no problem."""
    tensors = {
        "lora_controlnet": torch.zeros(1),
        "input_blocks.1.0.in_layers.2.down": randn(4, 8, 3, 3),
        "input_blocks.1.0.in_layers.2.up": randn(16, 4, 1, 1),
        "input_blocks.1.0.in_layers.2.bias": randn(16),
        "input_blocks.4.1.transformer_blocks.0.attn1.to_q.down": randn(4, 8),
        "input_blocks.4.1.transformer_blocks.0.attn1.to_q.up": randn(8, 4),
        "zero_convs.0.0.weight": randn(8, 8, 1, 1),
        "zero_convs.0.0.bias": randn(8),
    }
    adapter = read(os.fspath(tmp_path / "control.safetensors"), tensors)
    assert adapter.convention == "controllora"
    assert not adapter.problems
    found = {module.name: module for module in adapter.modules}
    conv = found["down_blocks.0.resnets.0.conv1"]
    assert (conv.algorithm, conv.shape, conv.scale) == ("locon", (16, 8, 3, 3), 1.0)
    up, down = tensors["input_blocks.1.0.in_layers.2.up"], tensors["input_blocks.1.0.in_layers.2.down"]
    expected = (up.flatten(1) @ down.flatten(1)).reshape(16, 8, 3, 3)
    np.testing.assert_allclose(conv.delta(), expected, rtol=1e-5, atol=1e-6)
    assert by_key(adapter)["zero_convs.0.0"].needs_base
