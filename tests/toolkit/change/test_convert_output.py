"""`convert`: dtypes, containers, headers, and what it never replaces."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import lorakit
from loracore.adapter import read_adapter
from loracore.errors import FileError, UsageError
from tests.toolkit.change.converting import CLOSE, assert_same, convert, deltas, llm, randn, sd15, small
from tests.toolkit.change.libraries import by_peft, save, unet


@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors"])
def test_container_and_dtype_alone(suffix: str, tmp_path: Path) -> None:
    """Names stay, values are torch's rounding of them, alpha keeps its value, and torch loads weights only."""
    path = small(
        tmp_path / "a.safetensors", **{"LINEAR.alpha": torch.tensor(257.0), "some.thing": torch.arange(3)}
    )
    output = tmp_path / f"b.{suffix}"
    convert(path, output, dtype="bfloat16")
    before = load_file(path)
    after = load_file(output) if suffix == "safetensors" else torch.load(output, weights_only=True)
    assert after.keys() == before.keys()
    for name, values in before.items():
        if name.endswith("to_q.alpha"):
            assert after[name].item() == 257.0
        elif name == "some.thing":
            assert torch.equal(after[name], values)
        else:
            assert torch.equal(after[name], values.to(torch.bfloat16))
    convert(output, tmp_path / f"c.{suffix}", "diffusers", leave_out=True)
    assert_same(deltas(tmp_path / f"c.{suffix}"), deltas(output), 1e-2)


def test_without_a_place_for_alpha_the_scale_is_in_the_factors(tmp_path: Path) -> None:
    """PEFT's single file, diffusers' in torch's container, and whatever is asked for with `fold`."""
    path = small(tmp_path / "a.safetensors")
    for output, to, fold in (
        ("b.safetensors", "peft", False),
        ("c.pt", "diffusers", False),
        ("d.safetensors", "kohya", True),
    ):
        found = convert(path, tmp_path / output, to, fold=fold)
        assert bool(found["warnings"]) is not fold
        with read_adapter(os.fspath(tmp_path / output)) as adapter:
            assert {module.scale for module in adapter.modules} == {1.0}
        assert_same(deltas(tmp_path / output), deltas(path))
    convert(tmp_path / "b.safetensors", tmp_path / "peft", "peft")
    ours = {f"{name.removeprefix('unet:')}.weight": delta for name, delta in deltas(path).items()}
    assert_same(by_peft(tmp_path / "peft", unet()), ours, CLOSE)
    folder, _ = llm(tmp_path / "llm")
    convert(folder, tmp_path / "e.safetensors")
    assert_same(deltas(tmp_path / "e.safetensors"), deltas(folder), 1e-6)


def test_a_header_says_how_it_was_made(tmp_path: Path) -> None:
    """Whence, and what was asked for; what the input says of its training stays, but not what it says of bytes."""
    path = sd15(tmp_path)
    convert(path, tmp_path / "b.safetensors", "diffusers")
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "kohya")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        made = file.metadata()
    assert made["ss_base_model_version"] == "sd_v1"
    assert json.loads(made["lorad.inputs"])[0]["sha256"] == lorakit.hashes(path)["sha256"]
    assert json.loads(made["lorad.parameters"]) == {"to": "diffusers"}
    assert lorakit.hashes(tmp_path / "b.safetensors")["sshs_model_hash"] == made["sshs_model_hash"]
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        assert "lora_adapter_metadata" not in file.metadata()


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    """Neither a file nor a folder; an input never, and no folder that is no adapter."""
    path = small(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_text("mine")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    for output, to, force, word in (
        ("b.safetensors", "kohya", False, "--force"), ("a.safetensors", "kohya", True, "it is read for this"),
        ("home", "peft", False, "--force"), ("home", "peft", True, "without adapter_config.json"),
        ("none/x.safetensors", "kohya", False, "make that folder"), ("x.txt", "kohya", False, "no container"),
        ("x", "diffusers", False, "no container"),
    ):  # fmt: skip
        with pytest.raises((UsageError, FileError), match=word):
            lorakit.convert(path, tmp_path / output, to=to, force=force)
    assert (tmp_path / "b.safetensors").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors", "home"]
    convert(path, tmp_path / "b.safetensors", "kohya", force=True)
    convert(path, tmp_path / "peft", "peft")
    convert(path, tmp_path / "peft", "peft", force=True)
    with pytest.raises(UsageError, match="it is read for this"):
        lorakit.convert(tmp_path / "peft", tmp_path / "peft", to="peft", force=True)
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors", "home", "peft"]
    assert os.listdir(tmp_path / "home") == ["letter.txt"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_no_number_is_not_carried_over(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    """Also where the bytes would stay what they are."""
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    up = randn(8, 2).to(dtype)
    up[3, 1] = torch.finfo(dtype).max
    tensors = {f"{stem}.lora_down.weight": randn(2, 8).to(dtype), f"{stem}.lora_up.weight": up}
    convert(small(tmp_path / "a.safetensors", **tensors), tmp_path / "b.safetensors", "diffusers")
    up[3, 1] = value
    path = small(tmp_path / "a.safetensors", **tensors)
    with pytest.raises(UsageError, match=r"a\.safetensors: layer '.*lora_B.*' holds NaN or Inf; take"):
        lorakit.convert(path, tmp_path / "c.safetensors", to="diffusers")
    assert not (tmp_path / "c.safetensors").exists()


def test_warnings_say_which_module_they_are_of(tmp_path: Path) -> None:
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{stem}.lora_down.weight": randn(2, 8), f"{stem}.lora_up.weight": randn(8, 2)}
    path = small(tmp_path / "a.safetensors", **tensors, **{f"{stem}.alpha": torch.tensor(0.0)})
    (warning,) = convert(path, tmp_path / "b.safetensors", "diffusers")["warnings"]
    assert warning.startswith(f"{stem}: alpha is 0")


def test_several_models_do_not_fit_into_one_peft_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"text_encoder.*give -o a folder"):
        lorakit.convert(sd15(tmp_path), tmp_path / "x.safetensors", to="peft")


def test_an_embeddings_factors_take_the_scale_too(tmp_path: Path) -> None:
    """PEFT's own names for them, in a file without a configuration; a transposed adapter needs its folder."""
    path, _ = llm(tmp_path / "peft", target_modules=["embed_tokens", "q_proj"])
    # It saves the embedding too, which has no other name than in a folder.
    weights = load_file(path / "adapter_model.safetensors")
    save(
        path / "adapter_model.safetensors",
        {name: value for name, value in weights.items() if "base" not in name[20:]},
    )
    convert(path, tmp_path / "a.safetensors")
    assert_same(deltas(tmp_path / "a.safetensors"), deltas(path), 1e-6)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"fan_in_fan_out": True}))
    with pytest.raises(UsageError, match="fan_in_fan_out"):
        lorakit.convert(path, tmp_path / "b.safetensors")


def test_stems_that_no_model_has_are_kept_or_refused(tmp_path: Path) -> None:
    """Nothing is guessed from underscores: other conventions have no name for them."""
    stem = "lora_unet_made_up_0"
    made_up = {f"{stem}.lora_down.weight": randn(2, 8), f"{stem}.lora_up.weight": randn(8, 2)}
    path = small(tmp_path / "a.safetensors", **made_up)
    convert(path, tmp_path / "b.safetensors", "kohya", fold=True)
    assert "lora_unet_made_up_0.lora_up.weight" in load_file(tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match="'lora_unet_made_up_0': no model that is known here"):
        lorakit.convert(path, tmp_path / "c.safetensors", to="diffusers")


def test_words_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    """Also where no command line has looked at them."""
    path = small(tmp_path / "a.safetensors")
    for options, word in (({"to": "comfy"}, r"'comfy' - at `\$.to`"), ({"dtype": "fp8"}, "'fp8' - at .*dtype")):
        with pytest.raises(UsageError, match=word):
            lorakit.convert(path, tmp_path / "b.safetensors", **options)  # type: ignore[arg-type]


def test_a_weight_file_of_a_folder_is_that_folder(tmp_path: Path) -> None:
    path, model = llm(tmp_path / "peft")
    convert(path / "adapter_model.safetensors", tmp_path / "half", dtype="float16")
    assert_same(by_peft(tmp_path / "half", model()), by_peft(path, model()), 1e-2)


def test_dora_along_the_input_stays_with_lycoris(tmp_path: Path) -> None:
    """Only other conventions have no name for it."""
    path = small(
        tmp_path / "a.safetensors",
        **{"LINEAR.dora_scale": 1 + randn(1, 8).abs(), "CONV.dora_scale": 1 + randn(1, 8, 1, 1).abs()},
    )
    convert(path, tmp_path / "b.safetensors", "kohya", fold=True)
    before, after = load_file(path), load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items() if "dora" in name)
