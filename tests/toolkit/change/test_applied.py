"""Results of `resize` and `merge`, loaded and applied by the real `peft`, do to a model what was promised."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import lorakit
from loracore.errors import UsageError
from tests.toolkit.change.files import Doubles, cut, deltas

if TYPE_CHECKING:
    from torch import Tensor, nn


def model(seed: int = 0) -> nn.Module:
    """An embedding, two linear layers, one convolution, as a transformer's parts are named."""
    import torch
    from torch import nn

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 24)
            self.q_proj, self.o_proj = nn.Linear(24, 20), nn.Linear(20, 16)
            self.conv = nn.Conv2d(1, 5, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            hidden = self.o_proj(torch.tanh(self.q_proj(self.embed(tokens))))
            return self.conv(hidden[:, None])

    torch.manual_seed(seed)
    return Small().double()


def adapter(folder: Path, seed: int, **options: Any) -> Path:
    """`save_pretrained` of an adapter with weights that matter."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(100 + seed)
    usual: dict[str, Any] = {"r": 6, "lora_alpha": 9, "target_modules": ["embed", "q_proj", "o_proj", "conv"]}
    wrapped = get_peft_model(model(), LoraConfig(init_lora_weights=False, **(usual | options)))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    wrapped.save_pretrained(folder)
    return folder


def outputs(folder: Path) -> Doubles:
    """Of the model with the adapter in `folder`, loaded by peft."""
    import torch
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(model(), folder).double().eval()
    with torch.no_grad():
        found: Doubles = wrapped(torch.arange(88).reshape(2, 44) % 11).numpy()
    return found


def expected(changes: dict[str, Doubles]) -> Doubles:
    """Of the model with ΔW added to its weights."""
    import torch

    changed = copy.deepcopy(model())
    with torch.no_grad():
        for name, delta in changes.items():
            weight = changed.get_submodule(name).weight
            weight += torch.from_numpy(delta.reshape(weight.shape))
        found: Doubles = changed(torch.arange(88).reshape(2, 44) % 11).numpy()
    return found


CASES: list[dict[str, Any]] = [
    {}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"o_proj": 3}},
    {"bias": "lora_only"},
]  # fmt: skip


@pytest.mark.parametrize("options", CASES)
def test_resized_folders_do_what_the_nearest_delta_does(tmp_path: Path, options: dict[str, Any]) -> None:
    given = adapter(tmp_path / "given", 1, **options)
    before = deltas(given)
    assert np.abs(outputs(given) - expected(before)).max() < 1e-5
    lorakit.resize(given, tmp_path / "out", rank=2)
    assert np.abs(outputs(tmp_path / "out") - expected({k: cut(v, 2) for k, v in before.items()})).max() < 1e-5
    # Some modules keep their rank then, and get their scale by the factors.
    found = lorakit.resize(given, tmp_path / "knee", sv_cumulative=0.8)
    nearest = {name: cut(delta, found["ranks"][name]) for name, delta in before.items()}
    assert len(set(found["ranks"].values())) > 1
    assert np.abs(outputs(tmp_path / "knee") - expected(nearest)).max() < 1e-5
    for method, rank in (("pad", 9), ("truncate", 6)):
        lorakit.resize(given, tmp_path / "out", rank=rank, method=method, force=True)
        assert np.abs(outputs(tmp_path / "out") - expected(before)).max() < 1e-5


@pytest.mark.parametrize("kind", ["LoHaConfig", "LoKrConfig"])
def test_folders_of_other_products_become_folders_of_lora(tmp_path: Path, kind: str) -> None:
    """LoHa and LoKr of PEFT's own writer, resized into a folder that peft loads as LoRA."""
    import peft

    config = getattr(peft, kind)(r=3, alpha=6, target_modules=["q_proj", "o_proj"], init_weights=False)
    peft.get_peft_model(model(), config).save_pretrained(tmp_path / "given")
    nearest = {name: cut(delta, 2) for name, delta in deltas(tmp_path / "given").items()}
    lorakit.resize(tmp_path / "given", tmp_path / "out", rank=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Unexpected keyword")
        assert np.abs(outputs(tmp_path / "out") - expected(nearest)).max() < 1e-5


def test_dora_keeps_what_it_does(tmp_path: Path) -> None:
    """Its direction by another rank, its magnitude as it was."""
    given = adapter(tmp_path / "given", 1, use_dora=True, target_modules=["q_proj", "o_proj"])
    before = outputs(given)
    lorakit.resize(given, tmp_path / "wide", rank=9, method="pad")
    assert np.abs(outputs(tmp_path / "wide") - before).max() < 1e-5
    lorakit.resize(tmp_path / "wide", tmp_path / "back", rank=6)
    assert np.abs(outputs(tmp_path / "back") - before).max() < 1e-5
    with pytest.raises(UsageError, match="DoRA"):
        lorakit.merge([given, given], tmp_path / "merged")


def test_transposed_weights_stay_transposed(tmp_path: Path) -> None:
    """GPT-2's layers lie as (in, out); peft's `fan_in_fan_out` tells."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers.pytorch_utils import Conv1D

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return torch.nn.ModuleDict({"c_attn": Conv1D(14, 10)})

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    get_peft_model(fresh(), config).save_pretrained(tmp_path / "given")
    (delta,) = deltas(tmp_path / "given").values()
    assert delta.shape == (10, 14)
    for name, wanted in (("resized", cut(delta, 2)), ("merged", 3 * delta)):
        if name == "resized":
            lorakit.resize(tmp_path / "given", tmp_path / name, rank=2)
        else:
            lorakit.merge([tmp_path / "given"] * 2, tmp_path / name, weights=(1, 2))
        merged = PeftModel.from_pretrained(fresh(), tmp_path / name).merge_and_unload()
        added = merged["c_attn"].weight - fresh()["c_attn"].weight
        assert np.abs(added.detach().numpy() - wanted).max() < 1e-6


def test_merged_folders_do_what_the_sum_does(tmp_path: Path) -> None:
    """Exactly without a rank, and as the nearest of a rank with one; ranks and scales of each are their own."""
    paths = [adapter(tmp_path / str(n), n, **options) for n, options in enumerate(CASES[:3])]
    weights = (0.7, -0.4, 0.5)
    parts = [deltas(path) for path in paths]
    total = {
        name: sum(weight * part[name] for weight, part in zip(weights, parts, strict=True)) for name in parts[0]
    }
    lorakit.merge(paths, tmp_path / "exact", weights=weights)
    assert np.abs(outputs(tmp_path / "exact") - expected(total)).max() < 1e-5
    lorakit.merge(paths, tmp_path / "ranked", weights=weights, rank=5)
    nearest = {name: cut(delta, 5) for name, delta in total.items()}
    assert np.abs(outputs(tmp_path / "ranked") - expected(nearest)).max() < 1e-5


def test_merges_are_those_of_peft_where_peft_is_exact(tmp_path: Path) -> None:
    """`add_weighted_adapter` with `cat`, on the same adapters."""
    import torch
    from peft import PeftModel

    paths = [adapter(tmp_path / str(n), n, target_modules=["q_proj", "o_proj"]) for n in range(2)]
    wrapped = PeftModel.from_pretrained(model(), paths[0], adapter_name="a")
    wrapped.load_adapter(paths[1], adapter_name="b")
    wrapped.add_weighted_adapter(["a", "b"], [0.7, 0.3], "both", combination_type="cat")
    wrapped.set_adapter("both")
    with torch.no_grad():
        theirs = wrapped.double().eval()(torch.arange(88).reshape(2, 44) % 11).numpy()
    lorakit.merge(paths, tmp_path / "out", weights=(0.7, 0.3))
    assert np.abs(outputs(tmp_path / "out") - theirs).max() < 1e-5


def test_a_single_file_of_pefts_names_has_scale_1(tmp_path: Path) -> None:
    """It has no place for alpha; and a folder is for PEFT's names alone."""
    given = adapter(tmp_path / "given", 1, use_rslora=True)
    lorakit.resize(given, tmp_path / "out.safetensors", rank=6)
    assert all(
        np.allclose(deltas(tmp_path / "out.safetensors")[k], v, atol=1e-6) for k, v in deltas(given).items()
    )
    from tests.toolkit.change.files import kohya

    plain = kohya(tmp_path / "kohya.safetensors")
    with pytest.raises(UsageError, match="folder is for PEFT"):
        lorakit.resize(plain, tmp_path / "folder", rank=2)
    lorakit.resize(given, tmp_path / "twice", rank=2)
    with pytest.raises(UsageError, match="--force"):
        lorakit.resize(given, tmp_path / "twice", rank=2)
