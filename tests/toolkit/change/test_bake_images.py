"""`bake` into image models, in diffusers' folders and in one file: what diffusers fuses (SPEC section 8)."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import lorakit
from lorakit.jobs.bake import merging
from tests.toolkit.change.baking import Tensors, assert_close, bake
from tests.toolkit.change.converting import flux_file, original, randn, texted
from tests.toolkit.change.libraries import by_diffusers, clip, flux, kohya, save, unet


def pipeline(folder: Path, family: str) -> tuple[Path, dict[str, Any]]:
    """A diffusers folder of small models, with what else lies there."""
    parts = {"unet": unet(family), "text_encoder": clip()}
    if family == "sdxl":
        parts["text_encoder_2"] = clip(projection=True)
    for name, model in parts.items():
        model.save_pretrained(folder / name)
    (folder / "vae").mkdir()
    save(folder / "vae" / "diffusion_pytorch_model.safetensors", {"decoder.weight": randn(4, 4)})
    (folder / "vae" / "config.json").write_text("{}")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    return folder, parts


def lora_of(family: str, path: Path) -> Path:
    te = "lora_te_" if family == "sd15" else "lora_te1_"
    rename = original if family == "sdxl" else lambda name: name
    tensors = kohya(unet(family), "lora_unet_", rename, alphas=2) | kohya(clip(), te, texted, alphas=2, seed=1)
    if family == "sdxl":
        tensors |= kohya(clip(projection=True), "lora_te2_", texted, alphas=2, seed=2)
    return save(path, {name: value * 0.1 if "lora_up" in name else value for name, value in tensors.items()})


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_pipeline_becomes_what_diffusers_fuses(family: str, tmp_path: Path) -> None:
    """Kohya's file, into each model's folder; all else is copied, and diffusers loads the result."""
    base, parts = pipeline(tmp_path / "base", family)
    lora = lora_of(family, tmp_path / "lora.safetensors")
    bake(lora, base, tmp_path / "out")
    texts = {name: model for name, model in parts.items() if name != "unet"}
    gained = by_diffusers(lora, family, unet(family), {name: deepcopy(model) for name, model in texts.items()})
    before = {"unet": unet(family).state_dict()} | {name: model.state_dict() for name, model in texts.items()}
    for name, state in before.items():
        (file,) = (tmp_path / "out" / name).glob("*.safetensors")
        prefix = "" if name == "unet" else f"{name}."
        expected = {key: value.double() + gained.get(prefix + key, 0) for key, value in state.items()}
        assert_close(load_file(file), {key: expected[key] for key in load_file(file)}, 1e-6)
    assert_same_files(base, tmp_path / "out")
    loaded = type(unet(family)).from_pretrained(tmp_path / "out" / "unet")
    assert loaded.config.cross_attention_dim == unet(family).config.cross_attention_dim
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert torch.equal(*(load_file(each / vae)["decoder.weight"] for each in (base, tmp_path / "out")))


def assert_same_files(one: Path, other: Path) -> None:
    names = [{os.fspath(path.relative_to(root)) for path in root.rglob("*")} for root in (one, other)]
    assert names[0] == names[1]


def single_file(family: str, path: Path) -> tuple[Path, dict[str, str], Tensors]:
    """The same models in one file under the original names: the file, these by ours, and the weights by these."""
    from loracore.names.originals import original_unet

    names, tensors = {}, {}
    for name, value in unet(family).state_dict().items():
        stem, _, last = name.rpartition(".")
        old = original_unet(stem, family)
        if old is None:
            # What is no module that a LoRA adapts has any other name.
            old = f"other.{stem}"
        names[name] = f"model.diffusion_model.{old}.{last}"
        tensors[names[name]] = value
    prefix = "cond_stage_model.transformer." if family == "sd15" else "conditioner.embedders.0.transformer."
    for name, value in clip().state_dict().items():
        names[f"text_encoder.{name}"] = f"{prefix}text_model.{name}"
        tensors[names[f"text_encoder.{name}"]] = value
    if family == "sdxl":
        for name, value in open_clip(clip(projection=True).state_dict()).items():
            tensors[f"conditioner.embedders.1.model.{name}"] = value
    return save(path, tensors, {"modelspec.title": "base", "sshs_model_hash": "old"}), names, tensors


def open_clip(state: Tensors) -> Tensors:
    """A text encoder as OpenCLIP has it: q, k and v in one matrix (diffusers `single_file_utils.py`)."""
    found: Tensors = {}
    for layer in range(2):
        ours, theirs = f"text_model.encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            parts = [state[f"{ours}self_attn.{part}.{kind}"] for part in ("q_proj", "k_proj", "v_proj")]
            found[f"{theirs}attn.in_proj_{kind}"] = torch.cat(parts)
            found[f"{theirs}attn.out_proj.{kind}"] = state[f"{ours}self_attn.out_proj.{kind}"]
            found[f"{theirs}mlp.c_fc.{kind}"] = state[f"{ours}mlp.fc1.{kind}"]
            found[f"{theirs}mlp.c_proj.{kind}"] = state[f"{ours}mlp.fc2.{kind}"]
    return found


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_checkpoint_of_one_file_gains_the_same(family: str, suffix: str, tmp_path: Path) -> None:
    """The original Stable Diffusion names, with OpenCLIP's fused projections: what diffusers adds to each."""
    base, names, before = single_file(family, tmp_path / "base.safetensors")
    if suffix == "ckpt":
        torch.save({"state_dict": before, "global_step": 7}, tmp_path / "base.ckpt")
        base = tmp_path / "base.ckpt"
    lora = lora_of(family, tmp_path / "lora.safetensors")
    bake(lora, base, tmp_path / "out.safetensors")
    texts = {"text_encoder": clip()} | ({"text_encoder_2": clip(projection=True)} if family == "sdxl" else {})
    gained = by_diffusers(lora, family, unet(family), texts)
    expected = {key: value.double() for key, value in before.items()}
    for name, value in gained.items():
        if not name.startswith("text_encoder_2."):
            expected[names[name]] = expected[names[name]] + value
    if family == "sdxl":
        state = {key: value * 0.0 for key, value in clip(projection=True).double().state_dict().items()}
        state |= {key.removeprefix("text_encoder_2."): value for key, value in gained.items() if "_2." in key}
        for name, value in open_clip(state).items():
            expected[f"conditioner.embedders.1.model.{name}"] += value
    after = load_file(tmp_path / "out.safetensors")
    assert after.keys() == before.keys()
    assert_close(after, expected, 1e-6)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["lorad.operation"] == "bake"
    assert "ss_network_dim" not in metadata
    assert "old" not in metadata.values()


@pytest.mark.parametrize("lora", ["kohya", "diffusers"])
@pytest.mark.parametrize("base", ["original", "diffusers"])
@pytest.mark.parametrize("block", [1 << 19, 300])
def test_flux_whatever_is_fused(
    lora: str, base: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fused projection of the LoRA into parts of the base, parts into fused; a layer at once and by rows."""
    monkeypatch.setattr(merging, "_BLOCK", block)
    from loracore.names.originals import diffusers_names

    given = flux_file(tmp_path / "kohya.safetensors")
    lorakit.convert(given, tmp_path / "diffusers.safetensors", to="diffusers")
    state = flux().state_dict()
    if base == "diffusers":
        flux().save_pretrained(tmp_path / "base")
        bake(tmp_path / f"{lora}.safetensors", tmp_path / "base", tmp_path / "out")
        after = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    else:
        tensors = {}
        for key in load_file(given):
            if not key.endswith(".alpha"):
                continue
            name = lorakit_name(key)
            parts = [state[f"{part}.weight"] for part in diffusers_names("flux", name) or ()]
            whole = torch.cat(parts)
            tensors[f"{name}.weight"] = torch.cat(whole.chunk(2)[::-1]) if name.startswith("final") else whole
        save(tmp_path / "base.safetensors", tensors)
        bake(tmp_path / f"{lora}.safetensors", tmp_path / "base.safetensors", tmp_path / "out.safetensors")
        after = {}
        for name, value in load_file(tmp_path / "out.safetensors").items():
            parts = diffusers_names("flux", name.removesuffix(".weight")) or ()
            whole = torch.cat(value.chunk(2)[::-1]) if name.startswith("final") else value
            sizes = [len(state[f"{part}.weight"]) for part in parts]
            after |= {f"{part}.weight": piece for part, piece in zip(parts, whole.split(sizes), strict=True)}
    gained = by_diffusers(tmp_path / "diffusers.safetensors", "flux", flux())
    expected = {key: state[key].double() + gained[key] for key in gained}
    assert_close(after, expected, 1e-6)


def lorakit_name(key: str) -> str:
    from loracore.names.canonical import dotted

    stem = key.removesuffix(".alpha").removeprefix("lora_unet_")
    return dotted([stem], "unet")[stem]


def test_one_component_of_a_pipeline(tmp_path: Path) -> None:
    """The folder of a UNet alone is a base too."""
    unet().save_pretrained(tmp_path / "unet")
    lora = save(tmp_path / "lora.safetensors", kohya(unet(), "lora_unet_"))
    bake(lora, tmp_path / "unet", tmp_path / "out")
    assert type(unet()).from_pretrained(tmp_path / "out") is not None
