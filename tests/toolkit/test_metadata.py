"""`metadata`: what files of real writers say and show, and what becomes of hostile ones (SPEC section 7)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

import lorakit
from loracore.errors import FileError, MalformedFile
from loracore.jobs.job import Alone
from loracore.jobs.metadata import MetadataParameters, MetadataResult
from lorakit.jobs.metadata.job import JOB
from tests.builders import real
from tests.builders.architectures import LayerSpec, flux, llm, sd15, sdxl
from tests.builders.weights import Layers, random_weights
from tests.builders.write import save_checkpoint, write_peft_folder, write_safetensors

TINY = random_weights(sd15(4, width=16, every=10), 1, alpha=2)

#: As sd-scripts' `train_network.py` writes it.
KOHYA = {
    "ss_output_name": "grün_cat", "ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False",
    "ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "2.0",
    "ss_network_args": '{"conv_dim": "4"}', "ss_sd_model_name": "sd_xl_base.safetensors",
    "ss_sd_model_hash": "31e35c80fc", "ss_new_sd_model_hash": "a" * 64, "ss_resolution": "(1024, 768)",
    "ss_clip_skip": "None", "ss_num_train_images": "40", "ss_num_reg_images": "0", "ss_epoch": "10",
    "ss_num_epochs": "12", "ss_steps": "400", "ss_max_train_steps": "480", "ss_learning_rate": "0.0001",
    "ss_unet_lr": "5e-05", "ss_text_encoder_lr": "[1e-05, 2e-05]", "ss_lr_scheduler": "cosine",
    "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)", "ss_seed": "42",
    "ss_total_batch_size": "4", "ss_gradient_accumulation_steps": "1", "ss_mixed_precision": "bf16",
    "ss_training_started_at": "1700000000.5", "ss_training_finished_at": "1700003600.0",
    "ss_training_comment": "a | b\nc", "ss_session_id": "3017823435",
    "ss_tag_frequency": '{"10_sks cat": {"cat": 4, " whiskers": 1}, "2_dog": {"dog": 3, "cat": 1}}',
    "ss_dataset_dirs": '{"10_sks cat": {"n_repeats": 10, "img_count": 4}, '
    '"2_dog": {"n_repeats": 2, "img_count": 3}}',
    "ss_bucket_info": '{"buckets": {}, "mean_img_ar_error": NaN}',
    "sshs_model_hash": "0" * 64, "modelspec.author": "me", "modelspec.trigger_phrase": "sks cat, meow, sks cat",
}  # fmt: skip


def described(path: str | Path) -> MetadataResult:
    """The job's result, which can travel to a client and be printed as strict JSON."""
    result = JOB.run(MetadataParameters(os.fsencode(path)), Alone())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(result), type=MetadataResult) == result
    json.dumps(lorakit.metadata(path), allow_nan=False).encode()
    return result


def file(folder: Path, metadata: dict[str, str], layers: Layers = TINY) -> str:
    return write_safetensors(str(folder / "a.safetensors"), layers, metadata=metadata)


def warned(result: MetadataResult, *words: str) -> bool:
    """Whether one line names all of these."""
    info = result.validation_info
    return any(all(word in line for word in words) for line in info.warnings + info.errors)


def test_kohyas_keys_are_read(tmp_path: Path) -> None:
    """Every field that sd-scripts writes, as a number where it is one."""
    result = described(file(tmp_path, KOHYA))
    model, training = result.model_info, result.training_info
    assert (model.model_name, model.base_model, model.base_model_file) == (
        "grün_cat", "sdxl_base_v1-0", "sd_xl_base.safetensors",
    )  # fmt: skip
    assert (model.network_rank, model.network_alpha, model.network_module) == (4, 2, "networks.lora")
    assert model.network_args == {"conv_dim": "4"}
    assert model.base_model_hash == "a" * 64
    assert model.author == "me"
    assert training.trainer == "kohya sd-scripts"
    assert (training.learning_rate, training.unet_learning_rate) == (1e-4, 5e-5)
    assert training.text_encoder_learning_rate == "1e-05, 2e-05"
    assert (training.epochs, training.steps, training.max_steps) == (10, 400, 480)
    assert (training.batch_size, training.seed, training.clip_skip) == (4, 42, None)
    assert (training.optimizer, training.optimizer_args) == ("AdamW8bit", "weight_decay=0.1")
    assert (training.resolution, training.scheduler) == ("1024x768", "cosine")
    assert (training.num_train_images, training.num_reg_images) == (40, 0)
    assert training.date == "2023-11-14T23:13:20+00:00"
    assert training.trigger_words == ("sks cat", "meow")
    assert training.trigger_words_from == "modelspec.trigger_phrase"
    assert training.tag_frequencies == {"cat": 5, "dog": 3, "whiskers": 1}
    assert list(training.tag_frequencies) == ["cat", "dog", "whiskers"]
    assert [(one.name, one.images, one.repeats) for one in training.datasets] == [
        ("10_sks cat", 4, 10), ("2_dog", 3, 2),
    ]  # fmt: skip
    assert result.validation_info.is_valid
    assert warned(result, "ss_clip_skip", "without a value")


def test_all_metadata_are_there_with_json_parsed(tmp_path: Path) -> None:
    """What trainers put into strings comes out as what it was; NaN, which no JSON has, as null."""
    found = described(file(tmp_path, KOHYA)).model_info.all_metadata
    assert set(found) == set(KOHYA)
    assert found["ss_dataset_dirs"]["2_dog"]["img_count"] == 3
    assert found["ss_bucket_info"]["mean_img_ar_error"] is None
    assert found["ss_seed"] == "42"


def test_file_info_is_that_of_the_file(tmp_path: Path) -> None:
    """Name, size and time, also of a name that is not UTF-8."""
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.SafeTensors")
    os.rename(file(tmp_path, {}), path)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    found = described(os.fsdecode(path)).file_info
    size = os.path.getsize(path)
    assert (found.filename, found.file_size, found.file_size_mb) == (
        b"\xff\xfe.SafeTensors",
        size,
        round(size / 1e6, 3),
    )
    assert (found.file_extension, found.modified_time) == (".SafeTensors", "2023-11-14T22:13:20Z")
    assert lorakit.metadata(path)["file_info"]["filename"] == os.fsdecode(b"\xff\xfe.SafeTensors")


@pytest.mark.parametrize(
    ("layers", "family", "convention", "rank"),
    [
        (sd15(8, every=20), "sd15", "kohya", 8),
        (sdxl(3, every=40), "sdxl", "kohya", 3),
        (flux(5, every=60, width=8), "flux", "kohya", 5),
        (llm(7, blocks=1, width=16), "llama", "peft", 7),
    ],
)
def test_architecture_is_read_from_names_and_shapes(
    tmp_path: Path, layers: list[LayerSpec], family: str, convention: str, rank: int
) -> None:
    """Without any metadata."""
    path = write_safetensors(str(tmp_path / "a.safetensors"), random_weights(layers, 1))
    result = described(path)
    info = result.architecture_info
    assert (result.model_info.family, info.convention, info.rank, info.ranks) == (family, convention, rank, {})
    assert info.algorithm == "LoRA"
    assert info.layers == len(layers)
    assert result.model_info.base_model == family
    assert result.model_info.all_metadata == {}


def test_ranks_that_differ_are_given_by_module(tmp_path: Path) -> None:
    """With `Dynamic` where a trainer had no one rank to state."""
    specs = [*sd15(4, width=16, every=40), *(spec for spec in sd15(9, width=16)[3:12])]
    layers = random_weights(specs, 1)
    result = described(file(tmp_path, {"ss_network_dim": "Dynamic", "ss_network_alpha": "Dynamic"}, layers))
    info = result.architecture_info
    assert set(info.ranks.values()) == {4, 9}
    assert len(info.ranks) == info.modules
    assert warned(result, "ss_network_dim", "ss_network_alpha", "Dynamic")
    assert not warned(result, "states rank")
    assert result.validation_info.is_valid


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"ss_network_dim": "128"}, ("ss_network_dim", "128", "4")),
        ({"ss_network_rank": "64"}, ("ss_network_rank", "64", "4")),
        ({"ss_network_alpha": "16"}, ("ss_network_alpha", "16", "2")),
        ({"ss_network_dim": "many"}, ("ss_network_dim", "many", "not a number")),
        ({"ss_network_dim": "None"}, ("ss_network_dim", "without a value")),
    ],
)
def test_ranks_are_read_from_shapes_and_disagreement_is_told(
    tmp_path: Path, stated: dict[str, str], words: tuple[str, ...]
) -> None:
    """Whatever the metadata say of rank and alpha."""
    result = described(file(tmp_path, stated))
    assert (result.model_info.network_rank, result.model_info.network_alpha) == (4, 2)
    assert warned(result, *words)
    assert result.validation_info.is_valid


def test_peft_is_read_with_its_configuration(tmp_path: Path) -> None:
    """By its folder or by its weight file, as PEFT's own writer leaves them."""
    (weights,) = real.by_peft(str(tmp_path / "peft"))
    for path in (tmp_path / "peft", weights):
        result = described(path)
        assert (result.model_info.network_rank, result.model_info.network_alpha) == (4, 8)
        assert result.model_info.network_module == "LORA"
        assert result.training_info.trainer == "PEFT"
        assert set(result.architecture_info.target_modules) == {"to_q", "to_v"}
        assert result.model_info.all_metadata["adapter_config"]["r"] == 4
        assert result.validation_info.is_valid
    folder = str(tmp_path / "llm")
    layers = random_weights(llm(16, blocks=1, width=16), 1)
    write_peft_folder(folder, layers, rank=32, targets=["q_proj"])
    result = described(folder)
    assert result.model_info.base_model == "meta-llama/Meta-Llama-3-8B"
    assert warned(result, "peft.r", "32", "16")


def test_diffusers_configurations_are_read(tmp_path: Path) -> None:
    """What newer versions keep in the file, by the part of the pipeline."""
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin

    layers: dict[str, nn.Module | Tensor] = {
        f"down_blocks.0.attn1.{part}.lora_{side}.weight": torch.ones(shape)
        for part in ("to_q", "to_k")
        for side, shape in (("A", (4, 32)), ("B", (32, 4)))
    }
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        str(tmp_path),
        unet_lora_layers=layers,
        unet_lora_adapter_metadata={"r": 4, "lora_alpha": 12, "target_modules": ["to_q", "to_k"]},
    )
    result = described(tmp_path / "pytorch_lora_weights.safetensors")
    assert (result.model_info.network_rank, result.model_info.network_alpha) == (4, 12)
    assert result.training_info.trainer == "diffusers"
    for path in real.by_diffusers(str(tmp_path)):
        old = described(path)
        assert (old.architecture_info.convention, old.model_info.network_rank) == ("diffusers", 4)


def test_lycoris_algorithms_are_told(tmp_path: Path) -> None:
    """LoCon, LoHa and LoKr, as LyCORIS writes them."""
    found = {Path(path).stem: described(path) for path in real.by_lycoris(str(tmp_path))}
    assert "LoHa" in str(found["loha"].architecture_info.algorithm)
    assert "LoKr" in str(found["lokr"].architecture_info.algorithm)
    assert "Lo" in str(found["locon"].architecture_info.algorithm)
    assert all(result.model_info.network_module == "lycoris.kohya" for result in found.values())
    assert all(result.validation_info.is_valid for result in found.values())


def test_other_trainers_keys_are_read(tmp_path: Path) -> None:
    """OneTrainer's, ai-toolkit's, the webui's and the older plain ones."""
    config = {
        "training_method": "LORA", "learning_rate": 0.0003, "epochs": 100, "batch_size": 2, "lora_rank": 4,
        "optimizer": {"optimizer": "ADAMW", "weight_decay": 0.01}, "resolution": "512", "lora_alpha": 2.0,
        "unet": {"learning_rate": 1e-4}, "base_model_name": "stabilityai/sdxl",
    }  # fmt: skip
    ot = {"ot_branch": "master", "ot_revision": "814f591", "ot_config": json.dumps(config)}
    result = described(file(tmp_path, ot))
    training = result.training_info
    assert training.trainer == "OneTrainer master 814f591"
    assert (training.training_method, training.optimizer, training.epochs) == ("LORA", "ADAMW", 100)
    assert (training.learning_rate, training.unet_learning_rate, training.resolution) == (0.0003, 1e-4, "512")
    assert result.model_info.base_model == "stabilityai/sdxl"
    toolkit = {
        "software": '{"name": "ai-toolkit", "repo": "x", "version": "0.7.2"}', "name": "my_flux",
        "training_info": '{"step": 2000, "epoch": 30}',
    }  # fmt: skip
    result = described(file(tmp_path, toolkit))
    assert result.training_info.trainer == "ai-toolkit 0.7.2"
    assert (result.training_info.steps, result.training_info.epochs) == (2000, 30)
    assert result.model_info.model_name == "my_flux"
    plain = {"ss_model_name": "old", "ss_base_model": "v1-5", "ss_network_rank": "4"}
    result = described(file(tmp_path, plain))
    assert (result.model_info.model_name, result.model_info.base_model) == ("old", "v1-5")
    result = described(file(tmp_path, {"ssmd_keywords": "a cat,dog", "ssmd_author": "x"}))
    assert result.training_info.trigger_words == ("a cat", "dog")
    assert result.model_info.author == "x"


def test_trigger_words_come_from_folders_or_from_tags_of_every_image(tmp_path: Path) -> None:
    """Where nobody stated them; which it was is told."""
    folders = {"ss_dataset_dirs": '{"10_sks cat": {"n_repeats": 10, "img_count": 4}}'}
    info = described(file(tmp_path, folders)).training_info
    assert (info.trigger_words, info.trigger_words_from) == (("sks cat",), "dataset folders")
    assert info.num_train_images == 40
    datasets = [{
        "resolution": [512, 512], "batch_size_per_device": 2,
        "subsets": [{"image_dir": "img", "img_count": 5, "num_repeats": 1}],
    }]  # fmt: skip
    tags = {"ss_datasets": json.dumps(datasets), "ss_tag_frequency": '{"img": {"ohwx": 5, "hat": 2}}'}
    info = described(file(tmp_path, tags)).training_info
    assert (info.trigger_words, info.trigger_words_from) == (("ohwx",), "tags of every image")
    assert (info.batch_size, info.resolution, info.datasets[0].name) == (2, "512x512", "img")


HOSTILE: dict[str, str] = {
    "huge": '{"a": "' + "x" * (5 << 20) + '"}',
    "long": "x" * (2 << 20),
    "deep": '{"a":' * 5000 + "1" + "}" * 5000,
    "deep array": "[" * 100_000,
    "broken": '{"a": ',
    "nan": '{"ss": [NaN, Infinity, -Infinity, 1e999]}',
    "big numbers": '{"ss": [' + "9" * 300 + ", " + "9" * 5000 + "]}",
    "surrogate": '{"\\ud800": "\\udfff"}',
    "list": '[1, "2", {"a": null}]',
    "text": "[not json",
    "empty": "",
    "None": "None",
    "number": "1e400",
    "nested texts": json.dumps({"a": json.dumps({"b": "{"})}),
}


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 50 + "]" * 50, '{"a":' * 5000 + "1" + "}" * 5000])
def test_json_that_is_nested_too_deeply_is_named(tmp_path: Path, text: str) -> None:
    """Whatever bracket it begins with: its key stands in a warning, and it is kept as text."""
    path = write_safetensors(str(tmp_path / "a.safetensors"), TINY, metadata={"ss_datasets": text})
    warnings = lorakit.metadata(path)["validation_info"]["warnings"]
    assert any("ss_datasets" in warning and "nested too deeply" in warning for warning in warnings)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_values_end_in_a_warning_or_as_text(tmp_path: Path, case: str) -> None:
    """Under every key that is read, at once; the shapes are analysed all the same, in bounded time."""
    keys = [
        *KOHYA,
        "ot_config",
        "lora_adapter_metadata",
        "software",
        "training_info",
        "ss_datasets",
        "ssmd_keywords",
    ]
    big = len(HOSTILE[case]) > 1 << 20
    result = described(file(tmp_path, dict.fromkeys(keys[:3] if big else keys, HOSTILE[case])))
    assert result.model_info.network_rank == 4
    assert result.validation_info.is_valid
    assert all(len(line) < 2000 and "\n" not in line for line in result.validation_info.warnings)
    if case in ("huge", "long", "deep", "broken"):
        assert warned(result, keys[0])


@pytest.mark.parametrize("value", [5, 1.5, True, None, "x", [], [1, [2]], {"a": {"b": 1}}])
def test_wrong_types_inside_of_json_are_survived(tmp_path: Path, value: Any) -> None:
    """An object, list or text where another was expected."""
    metadata = {
        "ss_tag_frequency": json.dumps({"a": value, "b": {"c": value}}),
        "ss_dataset_dirs": json.dumps({"a": value, "b": {"img_count": value, "n_repeats": value}}),
        "ss_datasets": json.dumps([value, {"subsets": value}, {"subsets": [value, {"image_dir": value}]}]),
        "ot_config": json.dumps({"optimizer": value, "epochs": value, "unet": value, "lora_rank": value}),
        "lora_adapter_metadata": json.dumps({"unet.r": value, "unet.lora_alpha": value, "x": value}),
        "software": json.dumps({"name": value, "version": value}),
        "training_info": json.dumps({"step": value}),
        "ss_network_args": json.dumps({"algo": value}),
    }
    result = described(file(tmp_path, metadata))
    assert result.model_info.network_rank == 4


def test_bad_modules_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    """A missing half, halves that do not fit, an alpha that is NaN."""
    layers = dict(TINY)
    roots = sorted({name.split(".")[0] for name in layers})
    del layers[f"{roots[0]}.lora_up.weight"]
    layers[f"{roots[1]}.alpha"] = ("F16", (), b"\x00\x7e")
    result = described(file(tmp_path, {}, layers))
    info = result.validation_info
    assert not info.is_valid
    assert any(roots[0] in line for line in info.errors)
    assert any(roots[1] in line for line in info.errors)
    assert result.architecture_info.modules == len(roots) - 2
    assert result.model_info.network_rank == 4


def test_nan_and_inf_are_named_where_values_are_looked_at(tmp_path: Path) -> None:
    """By layer; without `values` no weight is read, and nothing is said of them."""
    layers = dict(TINY)
    names = sorted(name for name in layers if name.endswith("lora_up.weight"))[:2]
    for name, bits in zip(names, (b"\x00\x7e", b"\x00\x7c"), strict=True):
        dtype, shape, data = layers[name]
        layers[name] = (dtype, shape, bits + data[2:])
    path = file(tmp_path, {}, layers)
    assert described(path).validation_info.is_valid
    info = lorakit.metadata(path, values=True)["validation_info"]
    assert not info["is_valid"]
    assert [line.partition(": ")[2] for line in info["errors"]] == [
        f"{names[0]} holds 1 NaN", f"{names[1]} holds 1 Inf",
    ]  # fmt: skip


def test_checkpoints_are_read_too(tmp_path: Path) -> None:
    """A `.pt` with what stands beside its tensors."""
    path = save_checkpoint(str(tmp_path / "a.pt"), TINY, nested="state_dict")
    result = described(path)
    assert result.model_info.format == "torch-zip"
    assert (result.training_info.epochs, result.training_info.steps) == (3, 1200)
    assert result.model_info.network_rank == 4


def test_a_file_without_modules_is_not_valid(tmp_path: Path) -> None:
    """A base model, an embedding: it is said, not guessed at."""
    layers = {"model.embed.weight": ("F16", (4, 4), bytes(32))}
    result = described(file(tmp_path, {}, layers))
    assert not result.validation_info.is_valid
    assert result.model_info.network_rank is None
    assert result.architecture_info.modules == 0


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Damaged or missing: one line."""
    broken = file(tmp_path, KOHYA)
    os.truncate(broken, 500)
    with pytest.raises(MalformedFile, match=r"a\.safetensors"):
        described(broken)
    with pytest.raises(FileError, match="missing"):
        described(tmp_path / "missing.safetensors")
