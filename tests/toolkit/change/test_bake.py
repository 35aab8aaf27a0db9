"""`bake` into language models: what PEFT merges, and Transformers loads (SPEC section 8)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
)

import lorakit
from loracore.errors import UsageError
from tests.toolkit.change.baking import (
    CONFIGS,
    Tensors,
    assert_close,
    bake,
    gpt2,
    llama,
    merged,
    saved,
    tuned,
    under,
)
from tests.toolkit.change.libraries import save


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
    assert read_by(shards[0]) == {
        f"base/{path.name}": lorakit.hashes(path)["blake3"] for path in base.glob(f"*-of-*.{form}")
    }


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_another_dtype_is_that_of_all_floats_and_said_to_be(form: str, tmp_path: Path) -> None:
    """Each layer is computed in float32 and rounded once; settings and index say what is there."""
    base = saved(llama(), tmp_path / "base", dtype=torch.float32, max_shard_size="8KB")
    if form == "bin":
        as_checkpoints(base)
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    exact = merged(under(llama(), tmp_path / "adapter"))
    found = bake(tmp_path / "adapter", base, tmp_path / "out", dtype="bfloat16")
    assert found["outputs"][0]["dtype"] == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    after = model.state_dict()
    assert {value.dtype for value in after.values()} == {torch.bfloat16}
    untouched = {name for name, value in llama().state_dict().items() if torch.equal(value, exact[name])}
    assert untouched
    assert untouched != exact.keys()
    assert all(torch.equal(after[name], exact[name].bfloat16()) for name in untouched)
    # PEFT adds in another order: the last bit of a few sums may differ.
    assert_close({name: value.float() for name, value in after.items()}, exact, 2**-8)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in after.values())


def read_by(shard: Path) -> dict[str, str]:
    """The files of models that went into it, by what it says, with their BLAKE3."""
    with safe_open(shard, "np") as file:
        read = json.loads(file.metadata()["lorad.inputs"])
    return {each["name"]: each["blake3"] for each in read if "blake3" in each}


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


def test_a_saved_embedding_takes_the_place_of_the_bases(tmp_path: Path) -> None:
    """PEFT keeps an embedding that was resized or trained beside its factors, and adds these to it."""
    base = saved(llama(), tmp_path / "base")
    tuned(llama(), CONFIGS["embedding"], tmp_path / "adapter")
    place = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(place)
    (name,) = (name for name in weights if name.endswith("embed_tokens.base_layer.weight"))
    save_file(weights | {name: weights[name] + 1}, place, metadata={"format": "pt"})
    bake(tmp_path / "adapter", base, tmp_path / "out")
    expected = merged(under(llama(), tmp_path / "adapter"))
    assert_close(load_file(tmp_path / "out" / "model.safetensors"), expected, 1e-6)
