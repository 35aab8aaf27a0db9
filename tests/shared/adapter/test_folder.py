"""An adapter folder, and which of its files are the weights, is known by the names at its top (SPEC section 1)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loracore.adapter.folder import weight_parts
from tests.builders.models import llama, saved
from tests.builders.real import by_diffusers, by_peft

SHARDS = {"m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"}


def parts(*names: str) -> set[str] | None:
    found = weight_parts(map(os.fsencode, names))
    return None if found is None else set(map(os.fsdecode, found))


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        ({"adapter_model.safetensors", "adapter_config.json", "README.md"}, {"adapter_model.safetensors"}),
        ({"adapter_model.bin"}, {"adapter_model.bin"}),
        ({"adapter_model.bin", "adapter_model.safetensors"}, {"adapter_model.bin", "adapter_model.safetensors"}),
        ({"pytorch_lora_weights.safetensors", "image.png"}, {"pytorch_lora_weights.safetensors"}),
        (SHARDS | {"m.safetensors.index.json"}, SHARDS),
        ({"w-00001-of-00001.bin", "w.bin.index.json", "a.txt"}, {"w-00001-of-00001.bin"}),
        # A checkpoint of Transformers, and of Accelerate.
        (
            {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"},
            {"adapter_model.safetensors"},
        ),
        (
            {
                "pytorch_lora_weights.safetensors",
                "optimizer.bin",
                "sampler.bin",
                "scaler.pt",
                "random_states_0.pkl",
            },
            {"pytorch_lora_weights.safetensors"},
        ),
    ],
)
def test_folders_of_fixed_names_are_adapter_folders(names: set[str], weights: set[str]) -> None:
    assert parts(*names) == weights


@pytest.mark.parametrize(
    "names",
    [
        set(),
        {"adapter_config.json"},
        {"a.safetensors"},
        {"optimizer.pt"},
        {"adapter_model.safetensors", "other.safetensors"},
        {"adapter_model.safetensors", "pytorch_model.bin"},
        {"adapter_model (1).safetensors", "adapter_config.json"},
        {"my_adapter_model.safetensors"},
        {"adapter_model.safetensors.index.json"},
        {"adapter_model.json"},
        # A shard lacks, the index lacks, or is that of another container.
        {"m-00001-of-00002.safetensors", "m.safetensors.index.json"},
        SHARDS,
        SHARDS | {"m.bin.index.json"},
        SHARDS | {"m.safetensors.index.json", "m.safetensors"},
        SHARDS | {"m.safetensors.index.json", "m-00001-of-00003.safetensors"},
    ],
)
def test_all_others_are_not(names: set[str]) -> None:
    assert parts(*names) is None


def test_what_lorad_hides_in_a_folder_is_no_model() -> None:
    hidden = {".adapter_model.safetensors.aside-0af3-12", ".lorad-0af3-4.tmp"}
    assert parts("adapter_model.safetensors", *hidden) == {"adapter_model.safetensors"}


def test_real_libraries_write_such_folders(tmp_path: Path) -> None:
    (peft,) = by_peft(str(tmp_path / "peft"))
    assert parts(*os.listdir(tmp_path / "peft")) == {os.path.basename(peft)}
    (tmp_path / "diffusers").mkdir()
    written = by_diffusers(str(tmp_path / "diffusers"))
    assert parts(*os.listdir(tmp_path / "diffusers")) == set(map(os.path.basename, written))
    shards = saved(llama(), tmp_path / "model", shard="100KB")
    found = parts(*os.listdir(shards))
    assert found is not None
    assert len(found) > 1
