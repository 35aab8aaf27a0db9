"""Which files a model consists of; an index has the word, and does not lead anywhere else (SPEC section 11)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from loracore.errors import FileError, MalformedFile, UnknownFormat
from lorakit.models.weights import Weights

ONE = np.ones((2, 2), np.float32)


def index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def names(path: Path) -> set[str]:
    with Weights(str(path).encode()) as model:
        return set(model.tensors)


def test_a_diffusers_folder_has_its_components_names(tmp_path: Path) -> None:
    """Variants beside the weights are not read twice; what is no weight is not read at all."""
    for part in ("unet", "text_encoder"):
        (tmp_path / part).mkdir()
        name = "diffusion_pytorch_model" if part == "unet" else "model"
        save_file({"a.weight": ONE}, tmp_path / part / f"{name}.safetensors")
        save_file({"a.weight": ONE}, tmp_path / part / f"{name}.fp16.safetensors")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    assert names(tmp_path) == {"unet.a.weight", "text_encoder.a.weight"}


def test_without_an_index_all_weights_of_the_folder_count(tmp_path: Path) -> None:
    save_file({"a.weight": ONE}, tmp_path / "part-1.safetensors")
    save_file({"b.weight": ONE}, tmp_path / "part-2.safetensors")
    save_file({"c.weight": ONE}, tmp_path / "adapter_model.safetensors")
    assert names(tmp_path) == {"a.weight", "b.weight"}
    save_file({"b.weight": ONE}, tmp_path / "part-3.safetensors")
    with pytest.raises(MalformedFile, match=r"has layer 'b\.weight' too"):
        names(tmp_path)


def test_what_the_index_does_not_name_is_left_out_and_told(tmp_path: Path) -> None:
    """As is a layer that it promises and its shard lacks."""
    save_file({"a.weight": ONE}, tmp_path / "one.safetensors")
    save_file({"a.weight": ONE}, tmp_path / "stray.safetensors")
    index(tmp_path, {"a.weight": "one.safetensors", "b.weight": "one.safetensors"})
    with Weights(str(tmp_path).encode()) as model:
        assert set(model.tensors) == {"a.weight"}
        assert "stray.safetensors" in model.warnings[0]
        assert [(fault.module, "lacks" in fault.reason) for fault in model.faults] == [("b.weight", True)]


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "a\0.bin"])
def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a.weight": ONE}, tmp_path / "secret.safetensors")
    index(folder, {"a.weight": name})
    with pytest.raises(MalformedFile, match="out of its folder"):
        names(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', '{"weight_map": {}}']
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(MalformedFile, match="index"):
        names(tmp_path)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    save_file({"a.weight": ONE}, tmp_path / "one.safetensors")
    index(tmp_path, {"a.weight": "one.safetensors", "b.weight": "two.safetensors"})
    with pytest.raises(FileError, match=r"two\.safetensors is not there"):
        names(tmp_path)


def test_links_as_in_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file({"a.weight": ONE}, tmp_path / "blobs" / "0123")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blobs/0123")
    assert names(tmp_path / "snapshot") == {"a.weight"}


def test_a_folder_without_weights_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").write_bytes(b"x")
    with pytest.raises(UnknownFormat, match="without weights"):
        names(tmp_path)
