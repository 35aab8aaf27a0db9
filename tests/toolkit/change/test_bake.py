"""`bake`: the base model with LoRAs merged into it, equal to what the real libraries merge (SPEC section 8)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import lorakit
from loracore.errors import FileError, UsageError
from tests.toolkit.change.libraries import by_diffusers, clip, flux, kohya, save, unet
from tests.toolkit.change.test_convert import flux_file, original, randn, texted

Tensors = dict[str, torch.Tensor]


def llama(*, tied: bool = False) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=1, attention_bias=True, tie_word_embeddings=tied,
        )
    )  # fmt: skip


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2))


def quiet(work: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return work()


def tuned(model: Any, config: Any, folder: Path, seed: int = 0) -> Any:
    """The model under PEFT with random factors, and its adapter in `folder`."""
    made = quiet(lambda: get_peft_model(deepcopy(model), deepcopy(config)))
    torch.manual_seed(seed)
    for name, weight in made.named_parameters():
        if weight.requires_grad:
            weight.data = weight.data * (1 + torch.rand_like(weight)) if "magnitude" in name else (
                torch.randn_like(weight) * 0.2
            )  # fmt: skip
    quiet(lambda: made.save_pretrained(folder))
    return made


def merged(made: Any) -> Tensors:
    found: Tensors = quiet(made.merge_and_unload).state_dict()
    return found


def under(model: Any, folder: Path) -> Any:
    """The model under PEFT with the adapter of a folder."""
    return quiet(lambda: PeftModel.from_pretrained(model, folder))


def saved(model: Any, folder: Path, *, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    model.to(dtype).save_pretrained(folder, **options)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def bake(paths: Any, base: Path, output: Path, **options: Any) -> dict[str, Any]:
    before = snapshot(base)
    found = lorakit.bake(paths, base, output, **options)
    assert found["is_valid"]
    assert found["written"]
    assert snapshot(base) == before
    return found


def snapshot(path: Path) -> dict[str, tuple[int, int]]:
    places = [path] if path.is_file() else [place for place in path.rglob("*") if place.is_file()]
    return {os.fspath(place): (place.stat().st_size, place.stat().st_mtime_ns) for place in places}


def assert_close(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], step: float) -> None:
    """Within a step of rounding of the largest value of each layer."""
    assert found.keys() >= expected.keys()
    for name, values in expected.items():
        wanted, one = values.double(), found[name].double()
        assert one.shape == wanted.shape
        assert (one - wanted).abs().max() <= step * wanted.abs().max(), name


TARGETS = ["q_proj", "v_proj", "down_proj"]
CONFIGS: dict[str, Any] = {
    "lora": LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS),
    "dora": LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, use_dora=True),
    "bias": LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], lora_bias=True),
    "trained biases": LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], bias="lora_only"),
    "embedding": LoraConfig(r=4, lora_alpha=6, target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "whole modules": LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "loha": LoHaConfig(r=4, alpha=6, target_modules=TARGETS),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_language_model_becomes_what_peft_merges(kind: str, tmp_path: Path) -> None:
    """Of whatever kind the adapter is; and Transformers loads the result, which gives the same logits."""
    base = saved(llama(), tmp_path / "base")
    made = tuned(llama(), CONFIGS[kind], tmp_path / "adapter")
    bake(tmp_path / "adapter", base, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(12)[None]
    expected = merged(made)
    assert_close(loaded.state_dict(), expected, 1e-6)
    model = llama()
    model.load_state_dict(expected)
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-5)
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(base))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_shards_stay_shards_and_untouched_layers_every_bit(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """The same files with the same layers in the base's dtype; torch's checkpoints become safetensors."""
    base = saved(llama(), tmp_path / "base", dtype=dtype, max_shard_size="8KB")
    if form == "bin":
        as_checkpoints(base)
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    found = bake(tmp_path / "adapter", base, tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2
    assert [shard.name for shard in shards] == sorted(
        f"{path.stem.replace('pytorch_model', 'model')}.safetensors" for path in base.glob(f"*-of-*.{form}")
    )
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert {name: shard.name for shard in shards for name in load_file(shard)} == index
    before = llama().to(dtype).state_dict()
    after = {name: value for shard in shards for name, value in load_file(shard).items()}
    assert after.keys() == before.keys()
    touched = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert touched == {
        name for name in before if name.endswith((".q_proj.weight", ".v_proj.weight", ".down_proj.weight"))
    }
    assert {value.dtype for value in after.values()} == {dtype}
    # PEFT merges in the base's dtype, where ours is rounded once.
    exact = merged(under(llama().to(dtype).float(), tmp_path / "adapter"))
    assert all(torch.equal(after[name], exact[name].to(dtype)) for name in touched)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=dtype)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in after.items())
    assert found["outputs"][0]["modules"] == len(touched)


def as_checkpoints(base: Path) -> None:
    """The same model as Transformers wrote it before safetensors."""
    for shard in base.glob("*.safetensors"):
        name = shard.name.replace("model", "pytorch_model").replace(".safetensors", ".bin")
        torch.save(load_file(shard), base / name)
        shard.unlink()
    place = base / "model.safetensors.index.json"
    index = json.loads(place.read_text())
    index["weight_map"] = {
        name: file.replace("model", "pytorch_model").replace(".safetensors", ".bin")
        for name, file in index["weight_map"].items()
    }
    (base / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    place.unlink()


def test_gpt2_lies_transposed(tmp_path: Path) -> None:
    """Its Conv1D (fan_in_fan_out), and names that a file of the bare model lacks a part of."""
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    expected = merged(tuned(gpt2(), config, tmp_path / "adapter"))
    bake(tmp_path / "adapter", saved(gpt2(), tmp_path / "base"), tmp_path / "out")
    assert_close(load_file(tmp_path / "out" / "model.safetensors"), without_head(expected), 1e-6)
    bake(tmp_path / "adapter", saved(gpt2().transformer, tmp_path / "bare"), tmp_path / "out2")
    bare = {name.removeprefix("transformer."): value for name, value in without_head(expected).items()}
    assert_close(load_file(tmp_path / "out2" / "model.safetensors"), bare, 1e-6)


def without_head(state: Tensors) -> Tensors:
    return {name: value for name, value in state.items() if name != "lm_head.weight"}


def test_several_loras_with_weights(tmp_path: Path) -> None:
    """As PEFT merges one after the other, each with its weight."""
    base = saved(llama(), tmp_path / "base")
    tuned(llama(), CONFIGS["lora"], tmp_path / "a", 1)
    tuned(llama(), CONFIGS["loha"], tmp_path / "b", 2)
    bake([tmp_path / "a", tmp_path / "b"], base, tmp_path / "out", weights=[0.7, -0.3])
    before = llama().state_dict()
    gained = {}
    for name, weight in (("a", 0.7), ("b", -0.3)):
        after = merged(under(llama(), tmp_path / name))
        gained |= {
            key: gained.get(key, 0) + weight * (after[key].double() - before[key]) for key in before
        }  # fmt: skip
    expected = {key: before[key] + gained[key] for key in before}
    assert_close(load_file(tmp_path / "out" / "model.safetensors"), expected, 1e-6)
    with pytest.raises(UsageError, match="1 weights for 2 LoRAs"):
        lorakit.bake([tmp_path / "a", tmp_path / "b"], base, tmp_path / "x", weights=[1])


# diffusers' folders and models of one file


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
    from lorakit.change.originals import original_unet

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
def test_flux_whatever_is_fused(lora: str, base: str, tmp_path: Path) -> None:
    """A fused projection of the LoRA into parts of the base, parts into fused, and each into its own kind."""
    from lorakit.change.originals import diffusers_names

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
    from loracore.adapter.names import dotted

    stem = key.removesuffix(".alpha").removeprefix("lora_unet_")
    return dotted([stem], "unet")[stem]


def test_one_component_of_a_pipeline(tmp_path: Path) -> None:
    """The folder of a UNet alone is a base too."""
    unet().save_pretrained(tmp_path / "unet")
    lora = save(tmp_path / "lora.safetensors", kohya(unet(), "lora_unet_"))
    bake(lora, tmp_path / "unet", tmp_path / "out")
    assert type(unet()).from_pretrained(tmp_path / "out") is not None


# What is refused


def refused(word: str, lora: Path, base: Path, output: Path, **options: Any) -> None:
    with pytest.raises((UsageError, FileError), match=word) as error:
        lorakit.bake(lora, base, output, **options)
    assert "\n" not in str(error.value)
    assert not output.exists() or options.get("force") or "there" in word
    assert not [name for name in os.listdir(output.parent) if name.startswith(".lorad")]


def test_modules_that_the_base_lacks_are_named(tmp_path: Path) -> None:
    """How many, and the first of them; told otherwise, the others are merged."""
    small = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, attention_bias=True,
    )  # fmt: skip
    base = saved(LlamaForCausalLM(small), tmp_path / "base")
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    refused(
        r"3 of its 9 modules .*layers\.2.*no such module.*--leave-out",
        tmp_path / "adapter",
        base,
        tmp_path / "out",
    )
    checked = lorakit.bake(tmp_path / "adapter", base, tmp_path / "out", check=True)
    assert not checked["is_valid"]
    found = bake(tmp_path / "adapter", base, tmp_path / "out", leave_out=True)
    assert len(found["faults"]) == 3
    assert found["outputs"][0]["modules"] == 6


def test_another_width_is_refused_by_shape(tmp_path: Path) -> None:
    wide = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    base = saved(LlamaForCausalLM(wide), tmp_path / "base")
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    refused(
        r"made for a weight of \[16, 16\], the base's is \[32, 32\]", tmp_path / "adapter", base, tmp_path / "out"
    )


def test_tied_embeddings_are_not_changed_for_one_of_two_uses(tmp_path: Path) -> None:
    """What has one weight for embeddings and output would change in both; the rest can be merged."""
    base = saved(llama(tied=True), tmp_path / "base")
    tuned(llama(), CONFIGS["embedding"], tmp_path / "adapter")
    refused("one weight for", tmp_path / "adapter", base, tmp_path / "out")
    assert len(bake(tmp_path / "adapter", base, tmp_path / "out", leave_out=True)["faults"]) == 2
    config = LoraConfig(r=2, target_modules=["wte"])
    tuned(gpt2(), config, tmp_path / "wte")
    refused("one weight for", tmp_path / "wte", saved(gpt2(), tmp_path / "gpt2"), tmp_path / "out2")


def test_quantised_bases_are_refused(tmp_path: Path) -> None:
    base = saved(llama(), tmp_path / "base")
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    refused("quantised .gptq.", tmp_path / "adapter", base, tmp_path / "out")
    (base / "config.json").write_text(json.dumps(config))
    weights = load_file(base / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file(weights | {name: weights[name].to(torch.int8)}, base / "model.safetensors")
    refused("is I8: quantised", tmp_path / "adapter", base, tmp_path / "out")
    save_file(
        weights | {name: weights[name].to(torch.float8_e4m3fn), f"{name}_scale": torch.ones(1)},
        base / "model.safetensors",
    )
    refused("quantised with a scale", tmp_path / "adapter", base, tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64])
def test_narrow_and_wide_bases(dtype: torch.dtype, tmp_path: Path) -> None:
    """Each layer is rounded once, as torch rounds, to the dtype that it had."""
    weight = "model.layers.0.self_attn.q_proj.weight"
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    base = save(
        tmp_path / "base.safetensors", {name: value.to(dtype) for name, value in llama().state_dict().items()}
    )
    bake(tmp_path / "adapter", base, tmp_path / "out.safetensors")
    after, before = load_file(tmp_path / "out.safetensors"), load_file(base)
    model = llama().double()
    model.load_state_dict({name: value.double() for name, value in before.items()})
    expected = merged(under(model, tmp_path / "adapter"))
    assert after[weight].dtype == dtype
    if dtype == torch.float64:
        assert_close(after, expected, 1e-7)
    else:
        assert torch.equal(after[weight].float(), expected[weight].float().to(dtype).float())


def test_no_output_that_would_lose_something(tmp_path: Path) -> None:
    """Not the base, nor in it, nor a file's place, nor a folder that is no model; not the LoRA."""
    base = saved(llama(), tmp_path / "base")
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    shutil.copy(base / "model.safetensors", tmp_path / "one.safetensors")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    one = tmp_path / "one.safetensors"
    for word, given, output, force in (
        ("it is read for this", base, base, True), ("it is read for this", base, tmp_path / "adapter", True),
        ("inside of the base", base, base / "out", False), ("it is there already", base, tmp_path / "home", False),
        ("without config.json", base, tmp_path / "home", True),
        ("give -o a folder", base, tmp_path / "x.safetensors", False),
        ("one file; give -o a name", one, tmp_path / "x", False),
        ("one file; give -o a name", one, tmp_path / "x.pt", False),
        ("it is read for this", one, one, True),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=word):
            lorakit.bake(tmp_path / "adapter", given, output, force=force)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_weights_that_would_be_old_stay_behind(tmp_path: Path) -> None:
    """Other forms of the same weights, and an adapter that would be applied once more; they are told of."""
    base = saved(llama(), tmp_path / "base")
    for name in ("pytorch_model.bin", "model.onnx", "adapter_config.json", "flax_model.msgpack"):
        (base / name).write_bytes(b"old")
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    found = bake(tmp_path / "adapter", base, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip
    assert any("pytorch_model.bin" in warning for warning in found["warnings"])
    # Once more over it, when told so.
    bake(tmp_path / "adapter", base, tmp_path / "out", force=True)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".lorad")]


KILLED = """
import sys
from loracore.jobs.bake import BakeParameters
from loracore.jobs.change import Writing
from loracore.jobs.frame import Alone
from lorakit.change.baking.job import run

def told(done, total, what):
    if done > total / 2:
        print("half", flush=True)
        sys.stdin.read()

lora, base, output = (each.encode() for each in sys.argv[1:])
run(BakeParameters((lora,), base, Writing(output)), Alone(2, told))
"""


@pytest.mark.parametrize("single", [False, True])
def test_killed_half_way_there_is_no_model(single: bool, tmp_path: Path) -> None:
    """Nothing under the name; a hidden folder at most, without any weights."""
    base = saved(llama(), tmp_path / "base", max_shard_size="8KB")
    output = tmp_path / "out"
    if single:
        base, output = save(tmp_path / "base.safetensors", llama().state_dict()), tmp_path / "out.safetensors"
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    before = set(os.listdir(tmp_path))
    command = [sys.executable, "-c", KILLED, *map(os.fspath, (tmp_path / "adapter", base, output))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    left = set(os.listdir(tmp_path)) - before
    assert all(name.startswith(".lorad-") for name in left)
    assert len(left) == (0 if single else 1)
    assert not list(tmp_path.glob(".lorad-*/**/*.safetensors"))


def test_cancelled_there_is_nothing(tmp_path: Path) -> None:
    """Whoever is told how far it is may end it."""
    from loracore.jobs.bake import BakeParameters
    from loracore.jobs.change import Writing
    from loracore.jobs.frame import Alone, Cancelled
    from lorakit.change.baking.job import run

    base = saved(llama(), tmp_path / "base", max_shard_size="8KB")
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    before = sorted(os.listdir(tmp_path))

    def told(done: float, total: float, what: str) -> None:
        if done > total / 2:
            raise Cancelled("no more")

    wanted = BakeParameters(
        (os.fsencode(tmp_path / "adapter"),), os.fsencode(base), Writing(os.fsencode(tmp_path / "out"))
    )
    with pytest.raises(Cancelled):
        run(wanted, Alone(2, told))
    assert sorted(os.listdir(tmp_path)) == before


def test_a_layer_that_is_no_number_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    base = saved(llama(), tmp_path / "base")
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    place = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(place)
    name = next(name for name in weights if "lora_A" in name)
    weights[name][0, 0] = float("nan")
    save_file(weights, place, metadata={"format": "pt"})
    refused("would hold NaN or Inf", tmp_path / "adapter", base, tmp_path / "out")
