"""PEFT adapter folders count through their weight file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loracore.errors import FileError, MalformedFile, UnknownFormat
from loracore.tensorfile import open_container
from loracore.tensorfile.peft import read_config, read_folder, weight_file
from tests.shared.tensorfile.reading import expected, read_layers, save


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = torch.nn.Linear(6, 5)
        self.value = torch.nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.query(x) + self.value(x)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["query", "value"], init_lora_weights=False)
    get_peft_model(Tiny(), config).save_pretrained(str(folder))
    return folder


def test_a_folder_is_read_through_its_weight_file(adapter: Path) -> None:
    """What PEFT saves comes back layer for layer, with its configuration as metadata."""
    path, container = read_folder(os.fsencode(adapter))
    tensors = load_file(os.fsdecode(path))
    assert read_layers(os.fsdecode(path)) == expected(tensors)
    assert len(container.layout.layers) == 4
    config = json.loads(container.metadata["adapter_config"])
    assert config["r"] == 2
    assert config["lora_alpha"] == 8
    again = open_container(str(adapter))
    assert (again.layout.signature, again.metadata) == (container.layout.signature, container.metadata)


def test_safetensors_is_preferred(adapter: Path, tmp_path: Path) -> None:
    """With several weight files safetensors counts, then `.bin`; without one there is none."""
    folder = os.fsencode(tmp_path)
    assert weight_file(folder) is None
    tensors = load_file(str(adapter / "adapter_model.safetensors"))
    for suffix in (".pt", ".bin"):
        save(str(tmp_path / f"adapter_model{suffix}"), tensors)
        assert weight_file(folder) == os.fsencode(tmp_path / f"adapter_model{suffix}")
    save_file(tensors, str(tmp_path / "adapter_model.safetensors"))
    assert weight_file(folder) == os.fsencode(tmp_path / "adapter_model.safetensors")


def test_the_container_does_not_matter(adapter: Path, tmp_path: Path) -> None:
    """An adapter in `.bin` has the layout and the bytes of the one in safetensors."""
    save(str(tmp_path / "adapter_model.bin"), load_file(str(adapter / "adapter_model.safetensors")))
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    assert open_container(str(tmp_path)).layout.signature == open_container(str(adapter)).layout.signature
    assert read_layers(str(tmp_path / "adapter_model.bin")) == read_layers(
        str(adapter / "adapter_model.safetensors")
    )


def test_a_folder_without_weights_is_no_adapter(tmp_path: Path) -> None:
    """A folder without a weight file is named as such."""
    with pytest.raises(UnknownFormat, match=r"adapter_model\.safetensors"):
        open_container(str(tmp_path))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"3", b"{", b'{"r": }', b"[" * 100_000, b'{"a":"\xff"}', b" " * ((1 << 20) + 1)]
)
def test_a_damaged_configuration_is_refused(tmp_path: Path, text: bytes) -> None:
    """A configuration that is no JSON object, or longer than 1 MiB, is refused and named."""
    (tmp_path / "adapter_config.json").write_bytes(text)
    with pytest.raises(MalformedFile, match=r"adapter_config\.json"):
        read_config(os.fsencode(tmp_path))


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    """Weights without `adapter_config.json` are not read as an adapter."""
    save_file({"a": torch.ones(1)}, str(tmp_path / "adapter_model.safetensors"))
    with pytest.raises(FileError, match=r"adapter_config\.json"):
        open_container(str(tmp_path))
