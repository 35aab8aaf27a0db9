"""ΔW of folders that PEFT wrote, against what PEFT merges."""

from __future__ import annotations

import json
import os
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from loracore.adapter import Adapter, read_adapter
from tests.shared.adapter.measures import apart


class Tiny(nn.Module):
    """A language model's parts, in sizes that tell every dimension apart."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({
            "embed_tokens": nn.Embedding(50, 24),
            "layers": nn.ModuleList(
                nn.ModuleDict({
                    "self_attn": nn.ModuleDict({"q_proj": nn.Linear(24, 32), "v_proj": nn.Linear(24, 40)}),
                    "mlp": nn.ModuleDict({"conv": nn.Conv2d(12, 20, 3), "c_fc": Conv1D(28, 36)}),
                })
                for _ in range(2)
            ),
        })  # fmt: skip
        self.score = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


LINEAR = ["q_proj", "v_proj"]
CONFIGS: dict[str, Any] = {
    "plain": LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR),
    "conv": LoraConfig(r=4, lora_alpha=3, target_modules=["q_proj", "conv"]),
    "rslora": LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=LINEAR),
    "patterns": LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=LINEAR,
        rank_pattern={"q_proj": 6, r"model\.layers\.1\.self_attn\.v_proj": 2},
        alpha_pattern={"layers.0.self_attn.q_proj": 5, r"layers\.\d\.self_attn\.v_proj": 11},
    ),
    "patterns-rslora": LoraConfig(
        r=4, lora_alpha=8, target_modules=LINEAR, rank_pattern={"^model.layers.0.*q_proj": 7}, use_rslora=True
    ),
    "transposed": LoraConfig(r=4, lora_alpha=8, target_modules=["c_fc"], fan_in_fan_out=True),
    "embedding": LoraConfig(r=4, lora_alpha=8, target_modules=["embed_tokens", "q_proj"]),
    "saved": LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR, modules_to_save=["score"]),
    "bias": LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR, lora_bias=True),
    "base-bias": LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR, bias="lora_only"),
    "dora": LoraConfig(r=4, lora_alpha=8, target_modules=[*LINEAR, "conv"], use_dora=True),
    "dora-embedding": LoraConfig(r=4, lora_alpha=8, target_modules=["embed_tokens"], use_dora=True),
    "dora-transposed": LoraConfig(r=4, lora_alpha=8, target_modules=["c_fc"], use_dora=True, fan_in_fan_out=True),
    "loha": LoHaConfig(r=4, alpha=6, target_modules=[*LINEAR, "conv"]),
    "loha-effective": LoHaConfig(r=4, alpha=6, target_modules=["conv"], use_effective_conv2d=True),
    "lokr": LoKrConfig(r=2, alpha=6, target_modules=[*LINEAR, "conv"], decompose_both=True),
    "lokr-effective": LoKrConfig(r=2, alpha=6, target_modules=["conv"], use_effective_conv2d=True),
    "lokr-whole": LoKrConfig(r=100, alpha=30, target_modules=LINEAR),
    "ia3": IA3Config(target_modules=["q_proj", "v_proj"], feedforward_modules=["v_proj"]),
}


def tuned(config: Any, name: str = "default") -> tuple[PeftModel, nn.Module]:
    """A model under PEFT in float64 with random factors, and the model before it."""
    torch.manual_seed(0)
    base = Tiny().double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(deepcopy(base), deepcopy(config), adapter_name=name)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                fresh = torch.randn(parameter.shape, dtype=torch.float64) * 0.3
                parameter.data = parameter.data.double() * (1 + fresh) if "magnitude" in key else fresh
    return model, base


def merged(model: PeftModel) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: nn.Module = model.merge_and_unload()
    return found


def save(model: PeftModel, folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, save_embedding_layers=False)
    return os.fspath(folder)


@pytest.mark.parametrize("kind", CONFIGS)
def test_modules_make_of_the_base_what_peft_merges(kind: str, tmp_path: Path) -> None:
    """Every weight that PEFT's merge changes is changed the same to 1e-6, and no other is."""
    model, base = tuned(CONFIGS[kind])
    adapter = read_adapter(save(model, tmp_path))
    after = dict(merged(model).named_parameters())
    assert not adapter.problems
    assert adapter.convention == "peft"
    modules = {module.name: module for module in adapter.modules}
    changed = set()
    for name, before in base.named_parameters():
        place, _, part = name.rpartition(".")
        difference = after[name] - before
        if not difference.abs().max() > 0:
            continue
        changed.add(place)
        module = modules.get(name) or modules[place]
        if part == "bias":
            delta = module.bias_delta(np.float64)
            if delta is not None:
                assert apart(delta, difference) < 1e-6
            continue
        assert apart(module.applied(before.detach().numpy()) - before.detach().numpy(), difference) < 1e-6
        if not module.needs_base:
            assert module.shape == tuple(before.shape) or module.algorithm in {"loha", "lokr"}
            assert apart(module.delta(np.float64), difference) < 1e-6
    assert changed == {name.removesuffix(".bias") for name in modules}


def test_patterns_give_each_module_its_rank_and_alpha(tmp_path: Path) -> None:
    """`rank_pattern` and `alpha_pattern` are followed as PEFT does: by the end of the name, as expressions."""
    model, _ = tuned(CONFIGS["patterns"])
    adapter = read_adapter(save(model, tmp_path))
    found = {module.name: (module.rank, module.alpha) for module in adapter.modules}
    assert found == {
        "model.layers.0.self_attn.q_proj": (6, 5),
        "model.layers.0.self_attn.v_proj": (4, 11),
        "model.layers.1.self_attn.q_proj": (6, 8),
        "model.layers.1.self_attn.v_proj": (2, 11),
    }


def test_another_adapters_folder_is_found_inside(tmp_path: Path) -> None:
    """An adapter that is not named "default" sits in a folder of its name; the outer folder leads to it."""
    model, _ = tuned(CONFIGS["plain"], "style")
    folder = save(model, tmp_path)
    assert os.path.isdir(os.path.join(folder, "style"))
    adapter = read_adapter(folder)
    assert len(adapter.modules) == 4
    assert adapter.config["r"] == 4
    assert adapter.modules[0].scale == 2


def test_the_weight_file_alone_finds_its_configuration(tmp_path: Path) -> None:
    """`adapter_model.safetensors` is read with the configuration beside it; `.bin` too."""
    model, _ = tuned(CONFIGS["plain"])
    save(model, tmp_path)
    assert read_adapter(os.fspath(tmp_path / "adapter_model.safetensors")).modules[0].scale == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path / "bin", safe_serialization=False)
    adapter = read_adapter(os.fspath(tmp_path / "bin" / "adapter_model.bin"))
    assert adapter.format == "torch-zip"
    assert adapter.modules[0].scale == 2


def test_without_a_configuration_the_scale_is_one_and_said_to_be(tmp_path: Path) -> None:
    """PEFT keeps no alpha in the weights, so what is missing is named."""
    model, _ = tuned(CONFIGS["plain"])
    save(model, tmp_path)
    os.remove(tmp_path / "adapter_config.json")
    adapter = read_adapter(os.fspath(tmp_path))
    assert {module.scale for module in adapter.modules} == {1.0}
    assert "adapter_config.json" in adapter.problems[0].text


def test_names_of_a_state_dict_in_memory_are_read_too(tmp_path: Path) -> None:
    """Keys that still have the adapter's name give the same modules; of several adapters one is read."""
    model, _ = tuned(CONFIGS["saved"])
    whole = {key: value for key, value in model.state_dict().items() if "lora_" in key or "modules_to_save" in key}
    other = {key.replace("default", "other"): value for key, value in whole.items()}
    torch.save(whole, tmp_path / "whole.pt")
    torch.save(whole | other, tmp_path / "two.pt")
    save(model, tmp_path / "saved")
    expected = [(m.name, m.algorithm, m.shape) for m in read_adapter(os.fspath(tmp_path / "saved")).modules]
    one = read_adapter(os.fspath(tmp_path / "whole.pt"))
    assert [(m.name, m.algorithm, m.shape) for m in one.modules] == expected
    two = read_adapter(os.fspath(tmp_path / "two.pt"))
    assert [(m.name, m.algorithm, m.shape) for m in two.modules] == expected
    assert any("default, other" in problem.text for problem in two.problems)


BROKEN: list[dict[str, Any]] = [
    {"lora_alpha": "8"},
    {"lora_alpha": None},
    {"r": float("nan")},
    {"alpha_pattern": 3},
    {"rank_pattern": {"(": 1}},
    {"alpha_pattern": {"(a+)+$": 1}},
    {"alpha_pattern": {"q_proj": "x"}},
    {"target_parameters": [1, None]},
]


@pytest.mark.parametrize("change", BROKEN, ids=str)
def test_a_broken_configuration_is_reported_and_the_rest_read(change: dict[str, Any], tmp_path: Path) -> None:
    """Values of a wrong kind are named in `problems`; the modules are read all the same."""
    model, _ = tuned(CONFIGS["plain"])
    folder = save(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text()) | change
    (tmp_path / "adapter_config.json").write_text(json.dumps(config).replace("NaN", '"NaN"'))
    adapter: Adapter = read_adapter(folder)
    assert len(adapter.modules) == 4
    assert all(np.isfinite(module.delta()).all() for module in adapter.modules)
    if None not in change.values() and "target_parameters" not in change:
        assert any("adapter_config.json" in problem.text for problem in adapter.problems)


def test_kinds_whose_delta_is_not_known_are_named(tmp_path: Path) -> None:
    """AdaLoRA has LoRA's names and another ΔW: no module is taken for what it is not."""
    config = AdaLoraConfig(init_r=4, target_r=2, lora_alpha=8, target_modules=LINEAR, total_step=10)
    model, _ = tuned(config)
    adapter = read_adapter(save(model, tmp_path))
    assert not adapter.modules
    assert sum(problem.level == "error" and "AdaLoRA" in problem.text for problem in adapter.problems) == 4
    assert any("ADALORA" in problem.text for problem in adapter.problems)


def test_rotations_of_pefts_own_form_are_named(tmp_path: Path) -> None:
    """They are not taken for whole weights of modules that no model has."""
    model, _ = tuned(OFTConfig(r=4, oft_block_size=0, target_modules=LINEAR))
    adapter = read_adapter(save(model, tmp_path))
    assert not adapter.modules
    assert sum(problem.level == "error" and "OFT" in problem.text for problem in adapter.problems) == 4


class Experts(nn.Module):
    """A mixture of experts, whose weights are one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Module()
        self.experts.weight = nn.Parameter(torch.randn(3, 8, 6))
        self.q_proj = nn.Linear(6, 6)


def test_stacked_experts_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    """`target_parameters` stacks the experts' factors; they are not mistaken for one big module."""
    config = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["experts.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(Experts(), config)
    adapter = read_adapter(save(model, tmp_path))
    assert [module.name for module in adapter.modules] == ["q_proj"]
    assert any("experts" in problem.module and "3 of rank 2" in problem.text for problem in adapter.problems)
