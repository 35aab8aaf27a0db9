"""What `bake` refuses, in one line, and what is left when it ends half way: nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
)

import lorakit
from loracore.errors import FileError, UsageError
from tests.toolkit.change.baking import CONFIGS, bake, gpt2, llama, saved, tuned
from tests.toolkit.change.converting import texted
from tests.toolkit.change.libraries import clip, kohya, save
from tests.toolkit.output.conftest import DISK, disk

__all__ = ["disk"]


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
    refused("is I8, no float", tmp_path / "adapter", base, tmp_path / "out")
    save_file(
        weights | {name: weights[name].to(torch.float8_e4m3fn), f"{name}_scale": torch.ones(1)},
        base / "model.safetensors",
    )
    refused("quantised with a scale", tmp_path / "adapter", base, tmp_path / "out")


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
from loracore.jobs.job import Alone
from lorakit.jobs.bake.job import run
def told(done, total, what):
    # The first half is to hash the base.
    if done > 0.75 * total:
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
    from loracore.jobs.job import Alone, Cancelled
    from lorakit.jobs.bake.job import run

    base = saved(llama(), tmp_path / "base", max_shard_size="8KB")
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    before = sorted(os.listdir(tmp_path))

    def told(done: float, total: float, what: str) -> None:
        # The first half is to hash the base.
        if done > 0.75 * total:
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
    refused(r"adapter_model.safetensors: layer .* holds 1 NaN; take", tmp_path / "adapter", base, tmp_path / "out")


def test_a_full_disk_is_told_of_before_the_work(disk: Path, tmp_path: Path) -> None:
    """For a file and for a folder, by the name that it would have; and the disk is empty again."""
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    weights = llama().state_dict() | {"big": torch.zeros(DISK)}
    base = save(tmp_path / "base.safetensors", weights, {"format": "pt"})
    refused(
        r"disk/out\.safetensors: it cannot be written: no space",
        tmp_path / "adapter",
        base,
        disk / "out.safetensors",
    )
    (tmp_path / "folder").mkdir()
    shutil.copy(base, tmp_path / "folder" / "model.safetensors")
    refused(r"disk/out/model\.safetensors: .*make room", tmp_path / "adapter", tmp_path / "folder", disk / "out")
    assert os.listdir(disk) == []


def test_what_the_bases_dtype_cannot_hold_is_refused(tmp_path: Path) -> None:
    """By layer, with what can be done."""
    base = saved(llama(), tmp_path / "base", dtype=torch.float16)
    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    refused(
        "more than float16 can; take smaller --weights",
        tmp_path / "adapter",
        base,
        tmp_path / "out",
        weights=[1e6],
    )


def test_one_text_encoder_is_not_taken_for_both(tmp_path: Path) -> None:
    """Two of a pipeline have the same names; alone, a base does not say which of them it is."""
    clip(projection=True).save_pretrained(tmp_path / "base")
    tensors = kohya(clip(), "lora_te1_", texted) | kohya(clip(), "lora_te2_", texted, seed=1)
    lora = save(tmp_path / "lora.safetensors", tensors)
    refused("would change what 'te1.*give the whole pipeline", lora, tmp_path / "base", tmp_path / "out")


@pytest.mark.parametrize("change", ["touched", "shorter"])
def test_a_base_that_changes_meanwhile_is_told_of(change: str, tmp_path: Path) -> None:
    """By name; what was made of both of its states is not kept."""
    from loracore.jobs.bake import BakeParameters
    from loracore.jobs.change import Writing
    from loracore.jobs.job import Alone
    from lorakit.jobs.bake.job import run

    tuned(llama(), CONFIGS["lora"], tmp_path / "adapter")
    base = save(tmp_path / "base.safetensors", llama().state_dict())

    def told(done: float, total: float, what: str) -> None:
        if change == "touched":
            os.utime(base, ns=(1, 1))
        else:
            os.truncate(base, 5000)

    paths = (os.fsencode(tmp_path / "adapter"),)
    wanted = BakeParameters(paths, os.fsencode(base), Writing(os.fsencode(tmp_path / "out.safetensors")))
    with pytest.raises(FileError, match=r"base\.safetensors: .*(it changed|shorter|truncated)"):
        run(wanted, Alone(1, told))
    assert sorted(os.listdir(tmp_path)) == ["adapter", "base.safetensors"]
