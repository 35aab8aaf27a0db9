"""`extract`: a LoRA that was merged comes back and loads in peft; the error is what is told (SPEC section 8)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import lorakit
from loracore.adapter import read_adapter
from loracore.errors import UsageError
from tests.builders import models


def metadata(folder: Path) -> Any:
    return json.loads((folder / "lora_metadata.json").read_text())


def logits(model: Any, seed: int = 5) -> torch.Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.randint(0, 80, (2, 12))).logits
    return found


def test_a_merged_lora_comes_back_and_loads_in_peft(tmp_path: Path) -> None:
    """ΔW to the rounding of float32; PeftModel on the base gives the merged model's outputs."""
    from peft import PeftModel

    base = models.saved(models.llama(), tmp_path / "base", shard="60KB")
    tuned = models.merged(models.llama(), tmp_path / "tuned", rank=4, shard="90KB")
    found = lorakit.extract(base, tuned, tmp_path / "out", rank=4)
    assert found["extraction"]["modules"] == 2 * len(models.TARGETS)
    assert found["extraction"]["error"] < 1e-5
    assert found["faults"] == found["extraction"]["faults"] == []
    with models.quiet():
        model = PeftModel.from_pretrained(models.llama(), tmp_path / "out")
    merged = models.llama()
    tensors = {
        name: torch.from_numpy(layer)
        for file in tuned.glob("*.safetensors")
        for name, layer in load_file(file).items()
    }
    merged.load_state_dict(tensors, strict=False)
    assert torch.allclose(logits(model), logits(merged), atol=1e-4)
    assert not torch.allclose(logits(model), logits(models.llama()), atol=1e-2)
    told = metadata(tmp_path / "out")
    assert (told["rank"], told["base_model"], told["target_modules"]) == (4, str(base), sorted(models.TARGETS))
    assert all(layer["energy_captured"] > 0.9999 for layer in told["layers"].values())


def test_conv1d_is_turned_round(tmp_path: Path) -> None:
    """GPT-2 keeps inputs × outputs; fan_in_fan_out is set, and the outputs are those of the merged model."""
    from peft import PeftModel

    options = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    base = models.saved(models.gpt2(), tmp_path / "base")
    tuned = models.merged(models.gpt2(), tmp_path / "tuned", rank=3, **options)
    lorakit.extract(base, tuned, tmp_path / "out", rank=3)
    with models.quiet():
        model = PeftModel.from_pretrained(models.gpt2(), tmp_path / "out")
        merged = type(models.gpt2()).from_pretrained(tuned)
    assert torch.allclose(logits(model), logits(merged), atol=1e-4)


def test_the_error_is_what_is_told(tmp_path: Path) -> None:
    """‖X - BA‖ / ‖X‖ of the file as it is written, layer by layer, in every dtype; √S is on both factors."""
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    first = models.matrices(base)
    second = {name: 1.02 * layer for name, layer in first.items()}
    save_file(second, tuned)
    for dtype in ("float32", "float16", "bfloat16"):
        out = tmp_path / dtype
        lorakit.extract(base, tuned, out, rank=20, dtype=dtype)
        with safe_open(out / "extracted_lora_weights.safetensors", "pt") as file:
            layers = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        assert {str(layer.dtype) for layer in layers.values()} == {f"torch.{dtype}"}
        for name, one in metadata(out)["layers"].items():
            up, down = layers[one["up"]].double().numpy(), layers[one["down"]].double().numpy()
            change = second[name].astype(np.float64) - first[name]
            left = np.linalg.norm(change - up @ down) / np.linalg.norm(change)
            assert one["error"] == pytest.approx(left, rel=1e-4)
            values = np.linalg.svd(change, compute_uv=False)
            optimum = np.sqrt((values[20:] ** 2).sum() / (values**2).sum())
            assert left < 1.01 * optimum + 1e-4
            assert np.linalg.norm(up) == pytest.approx(np.linalg.norm(down), rel=1e-2)


def test_the_same_pass_as_compare(tmp_path: Path) -> None:
    """`compare --lora-rank` writes the files that `extract --rank` does."""
    base = models.saved(models.llama(), tmp_path / "base")
    tuned = models.merged(models.llama(), tmp_path / "tuned", rank=4)
    lorakit.extract(base, tuned, tmp_path / "extract", rank=4)
    lorakit.compare(base, tuned, tmp_path / "compare", lora_rank=4)
    one, other = (
        load_file(tmp_path / way / "extracted_lora_weights.safetensors") for way in ("extract", "compare")
    )
    assert one.keys() == other.keys()
    for up in (name for name in one if "lora_B" in name):
        down = up.replace("lora_B", "lora_A")
        assert np.allclose(one[up] @ one[down], other[up] @ other[down], atol=1e-5)
    assert metadata(tmp_path / "extract").keys() == metadata(tmp_path / "compare").keys()


def test_what_is_no_module_is_named(tmp_path: Path) -> None:
    """Embeddings, norms and biases that changed; and a rank that a module cannot have is what it can."""
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    rng = np.random.default_rng(0)
    layers = {
        "model.embed_tokens.weight": (50, 16), "model.layers.0.self_attn.q_proj.weight": (32, 16),
        "model.layers.0.self_attn.q_proj.bias": (32,), "model.norm.weight": (16,),
        "model.layers.0.self_attn.k_proj.weight": (6, 16), "model.layers.0.experts.w1.weight": (4, 16, 16),
    }  # fmt: skip
    first = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in layers.items()}
    save_file(first, base)
    save_file({name: layer + 0.1 * rng.random(layer.shape, np.float32) for name, layer in first.items()}, tuned)
    found = lorakit.extract(base, tuned, tmp_path / "out", rank=8)
    told = metadata(tmp_path / "out")
    assert {name: one["rank"] for name, one in told["layers"].items()} == {
        "model.layers.0.self_attn.q_proj.weight": 8, "model.layers.0.self_attn.k_proj.weight": 6,
    }  # fmt: skip
    assert set(told["not_extracted"]) == set(layers) - set(told["layers"])
    assert "embedding" in told["not_extracted"]["model.embed_tokens.weight"]
    assert {fault["module"] for fault in found["extraction"]["faults"]} == set(told["not_extracted"])
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"]) in (
        (8, {"model.layers.0.self_attn.k_proj": 6}), (6, {"model.layers.0.self_attn.q_proj": 8}),
    )  # fmt: skip


def test_a_diffusers_unet_becomes_a_kohya_file(tmp_path: Path) -> None:
    """As diffusers writes the model; convolutions keep their kernel; our reader finds ΔW again."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=8, cross_attention_dim=24,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=4, attention_head_dim=8,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    unet.save_pretrained(tmp_path / "base" / "unet")
    before = {name: layer.clone() for name, layer in unet.state_dict().items()}
    changed = ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.resnets.0.conv1"]
    with torch.no_grad():
        for name in changed:
            weight = unet.get_submodule(name).weight
            rows, columns = weight.shape[0], weight.numel() // weight.shape[0]
            weight += (torch.randn(rows, 2) @ torch.randn(2, columns)).reshape(weight.shape) * 0.01
    unet.save_pretrained(tmp_path / "tuned" / "unet")
    found = lorakit.extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "out", rank=2)
    assert (found["extraction"]["convention"], found["extraction"]["modules"]) == ("kohya", 2)
    assert sorted(os.listdir(tmp_path / "out")) == ["extracted_lora_weights.safetensors", "lora_metadata.json"]
    after = unet.state_dict()
    with read_adapter(str(tmp_path / "out" / "extracted_lora_weights.safetensors")) as adapter:
        assert adapter.convention == "kohya"
        deltas = {module.name: module.delta(np.float64) for module in adapter.modules}
    assert set(deltas) == set(changed)
    for name, delta in deltas.items():
        change = (after[f"{name}.weight"] - before[f"{name}.weight"]).double().numpy()
        assert np.linalg.norm(delta - change) < 1e-4 * np.linalg.norm(change)


def test_an_original_checkpoint_becomes_a_kohya_file(tmp_path: Path) -> None:
    """One file with UNet, text encoder and autoencoder: kohya's names of both, and the rest is named."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (32, 32),
        "model.diffusion_model.input_blocks.2.0.in_layers.2.weight": (32, 16, 3, 3),
        "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight": (32, 32),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (40, 32),
        "first_stage_model.decoder.conv_in.weight": (16, 4, 3, 3),
    }
    rng = np.random.default_rng(0)
    layers = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}
    save_file(layers, tmp_path / "base.safetensors")
    save_file({name: layer * np.float16(1.5) for name, layer in layers.items()}, tmp_path / "tuned.safetensors")
    found = lorakit.extract(
        tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "out", rank=4
    )
    with read_adapter(str(tmp_path / "out" / "extracted_lora_weights.safetensors")) as adapter:
        assert {module.key for module in adapter.modules} == {
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
            "lora_unet_down_blocks_0_resnets_1_conv1",
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        }
        assert {module.alpha for module in adapter.modules} == {4}
    reasons = {fault["module"].split(".")[0]: fault["reason"] for fault in found["extraction"]["faults"]}
    assert "autoencoder" in reasons["first_stage_model"]
    assert "embedding" in reasons["cond_stage_model"]


def test_equal_models_and_wrong_wishes_are_refused(tmp_path: Path) -> None:
    """One line, and nothing is left in the folder."""
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file(models.matrices(base), tuned)
    with pytest.raises(UsageError, match="nothing to extract"):
        lorakit.extract(base, tuned, tmp_path / "out", rank=4)
    assert not (tmp_path / "out").exists()
    for options, word in (({"rank": 0}, "rank"), ({"rank": 4, "quality": "best"}, "quality")):
        with pytest.raises(UsageError, match=word):
            lorakit.extract(base, tuned, tmp_path / "out", **options)
    assert lorakit.extract(base, tuned, tmp_path / "out", rank=4, check=True)["written"] is False


def test_it_says_how_it_was_made(tmp_path: Path) -> None:
    """In the file's metadata, which also say rank and alpha."""
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file({name: 2 * layer for name, layer in models.matrices(base).items()}, tuned)
    lorakit.extract(base, tuned, tmp_path / "out", rank=4)
    with safe_open(tmp_path / "out" / "extracted_lora_weights.safetensors", "np") as file:
        found = file.metadata()
    assert (found["ss_network_dim"], found["ss_network_alpha"], found["lorad.operation"]) == ("4", "4", "extract")
    assert "base.safetensors" in found["lorad.parameters"]
    read = [{"name": path.name, "blake3": lorakit.hashes(path)["blake3"]} for path in (base, tuned)]
    assert json.loads(found["lorad.inputs"]) == read
    assert metadata(tmp_path / "out")["inputs"] == read
