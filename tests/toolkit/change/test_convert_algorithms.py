"""`convert` of DoRA, Tucker's form, LoHa, LoKr, biases and language models, and what has no name."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lorakit
from loracore.adapter import read_adapter
from loracore.errors import UsageError
from tests.toolkit.change.converting import (
    ATTENTION,
    CLOSE,
    assert_same,
    convert,
    deltas,
    llm,
    randn,
    save_peft,
    small,
)
from tests.toolkit.change.libraries import by_diffusers, by_peft, unet


def applied(path: Path, model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """What each weight becomes, by our own reader (which is compared with each library in its own tests)."""
    weights = model.state_dict()
    with read_adapter(os.fspath(path)) as adapter:
        return {
            f"{module.name}.weight": module.applied(weights[f"{module.name}.weight"].double().numpy())
            for module in adapter.modules
        }


def test_dora_stays_dora(tmp_path: Path) -> None:
    """LyCORIS's dora_scale is PEFT's magnitude, and both libraries make the weight of it that LyCORIS would."""
    path = small(
        tmp_path / "a.safetensors",
        **{"LINEAR.dora_scale": 1 + randn(8, 1).abs(), "CONV.dora_scale": 1 + randn(8, 1, 1, 1, seed=7).abs()},
    )
    convert(path, tmp_path / "peft", "peft")
    convert(path, tmp_path / "diffusers.safetensors", "diffusers")
    convert(tmp_path / "peft", tmp_path / "back.safetensors", "kohya")
    before, after = load_file(path), load_file(tmp_path / "back.safetensors")
    assert all(torch.equal(after[name], values) for name, values in before.items())
    expected = {
        name: torch.from_numpy(value) - unet().state_dict()[name].double()
        for name, value in applied(path, unet()).items()
    }
    assert_same(by_peft(tmp_path / "peft", unet()), expected, 1e-5)
    assert_same(by_diffusers(tmp_path / "diffusers.safetensors", "sd15", unet()), expected, 1e-5)


def test_dora_is_all_or_none(tmp_path: Path) -> None:
    """PEFT would make every module of the model DoRA; the fewer are refused by name, or left out when told."""
    path = small(tmp_path / "a.safetensors", **{"LINEAR.dora_scale": 1 + randn(8, 1).abs()})
    with pytest.raises(UsageError, match=r"one algorithm for all modules.*--leave-out"):
        lorakit.convert(path, tmp_path / "peft", to="peft")
    found = convert(path, tmp_path / "peft", "peft", leave_out=True)
    assert len(found["faults"]) == 1
    path = small(tmp_path / "b.safetensors", **{"LINEAR.dora_scale": 1 + randn(1, 8).abs(), "CONV.alpha": None})
    with pytest.raises(UsageError, match="wd_on_out=False"):
        lorakit.convert(path, tmp_path / "c.safetensors", to="diffusers")


def test_a_mid_factor_is_multiplied_in(tmp_path: Path) -> None:
    """Tucker's form is kohya's alone; elsewhere ΔW is that of two factors."""
    path = small(
        tmp_path / "a.safetensors",
        **{"CONV.lora_down.weight": randn(2, 8, 1, 1), "CONV.lora_mid.weight": randn(2, 2, 3, 3)},
    )
    convert(path, tmp_path / "b.safetensors", "diffusers")
    ours = {f"{name.removeprefix('unet:')}.weight": delta for name, delta in deltas(path).items()}
    assert_same(by_diffusers(tmp_path / "b.safetensors", "sd15", unet()), ours, CLOSE)
    convert(path, tmp_path / "peft", "peft")
    assert_same(by_peft(tmp_path / "peft", unet()), ours, CLOSE)


@pytest.mark.parametrize("algorithm", ["loha", "lokr"])
@pytest.mark.parametrize("tucker", [False, True])
def test_hadamard_and_kronecker_products_are_pefts_too(algorithm: str, tucker: bool, tmp_path: Path) -> None:
    """LyCORIS's own file becomes a folder that PEFT loads, and the file again; diffusers has no such thing."""
    from lycoris import LycorisNetwork, create_lycoris

    model = unet()
    LycorisNetwork.apply_preset({"enable_conv": True, "target_module": ["Transformer2DModel", "ResnetBlock2D"]})
    options = {"linear_dim": 2, "linear_alpha": 1.0, "conv_dim": 2, "conv_alpha": 1.0, "use_tucker": tucker}
    network = create_lycoris(model, 1.0, algo=algorithm, **options)
    network.apply_to()
    torch.manual_seed(5)
    for weight in network.parameters():
        torch.nn.init.normal_(weight)
    network.save_weights(os.fspath(tmp_path / "a.safetensors"), None, {})
    path = tmp_path / "a.safetensors"
    convert(path, tmp_path / "peft", "peft")
    ours = {f"{name.removeprefix('unet:')}.weight": delta for name, delta in deltas(path).items()}
    assert_same(by_peft(tmp_path / "peft", unet()), ours, 1e-5)
    convert(tmp_path / "peft", tmp_path / "b.safetensors", "kohya")
    assert_same(deltas(tmp_path / "b.safetensors"), deltas(path), 1e-6)
    with pytest.raises(UsageError, match=f"diffusers knows no {algorithm}"):
        lorakit.convert(path, tmp_path / "c.safetensors", to="diffusers")


def test_language_models_have_no_other_names(tmp_path: Path) -> None:
    """In one line that says where they can go."""
    path, _ = llm(tmp_path / "peft")
    for to, output in (("kohya", "a.safetensors"), ("diffusers", "b.safetensors")):
        with pytest.raises(UsageError, match="language model's; take --to peft") as error:
            lorakit.convert(path, tmp_path / output, to=to)
        assert "\n" not in str(error.value)
        with pytest.raises(UsageError, match="nothing of it has a name"):
            lorakit.convert(path, tmp_path / output, to=to, leave_out=True)
    assert os.listdir(tmp_path) == ["peft"]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"use_rslora": True}, {"rank_pattern": {"layers.0.mlp.down_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        {"lora_bias": True, "target_modules": ["q_proj"]}, {"use_dora": True},
        {"target_modules": ["embed_tokens"]},
    ],
)  # fmt: skip
def test_a_folder_stays_what_it_is(options: dict[str, Any], tmp_path: Path) -> None:
    """Another dtype, the same configuration; PEFT loads it, and the weights gain the same to rounding."""
    path, model = llm(tmp_path / "peft", **options)
    convert(path, tmp_path / "half", dtype="bfloat16")
    one, other = ((each / "adapter_config.json").read_bytes() for each in (path, tmp_path / "half"))
    assert json.loads(one) == json.loads(other)
    assert {str(value.dtype) for value in load_file(tmp_path / "half" / "adapter_model.safetensors").values()} == {
        "torch.bfloat16"
    }
    assert_same(by_peft(tmp_path / "half", model()), by_peft(path, model()), 2e-2)


def test_rank_stabilised_scales_and_a_bias_reach_kohya(tmp_path: Path) -> None:
    """That is, alpha / √rank, as kohya's alpha; PEFT's bias of B, scaled, as LyCORIS's diff_b; and back."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=3, use_rslora=True, lora_bias=True, target_modules=["to_q"], init_lora_weights=False
    )
    with warnings.catch_warnings():
        # diffusers' attention has no bias there that could be merged into.
        warnings.simplefilter("ignore")
        save_peft(get_peft_model(unet(), config), tmp_path / "peft")
    convert(tmp_path / "peft", tmp_path / "a.safetensors", "kohya")
    assert load_file(tmp_path / "a.safetensors")[f"lora_unet_{ATTENTION}.alpha"].item() == 6.0
    assert_same(deltas(tmp_path / "a.safetensors"), deltas(tmp_path / "peft"), 1e-6)
    convert(tmp_path / "a.safetensors", tmp_path / "again", "peft")
    before = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    after = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.allclose(after[name], values, rtol=1e-6) for name, values in before.items())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (
            {"CONV.diff": randn(8, 8, 3, 3), "CONV.lora_down.weight": None, "CONV.lora_up.weight": None},
            "knows no full",
        ),
        ({"lora_unet_made_up_module.lora_down.weight": randn(2, 8)}, "made_up"),
        ({"some.thing": randn(2)}, "a layer of no module"),
        ({"LINEAR.lora_up.weight": randn(8, 3)}, "do not fit"),
    ],
)
def test_what_has_no_name_is_refused_by_name(changes: dict[str, Any], word: str, tmp_path: Path) -> None:
    """Before anything is written, in one line; told otherwise, the rest is written and the fault told."""
    path = small(tmp_path / "a.safetensors", **changes)
    with pytest.raises(UsageError, match=word) as error:
        lorakit.convert(path, tmp_path / "b.safetensors", to="diffusers")
    assert "\n" not in str(error.value)
    assert os.fspath(path) in str(error.value)
    checked = lorakit.convert(path, tmp_path / "b.safetensors", to="diffusers", check=True)
    assert (checked["is_valid"], checked["written"], checked["errors"]) == (False, False, [str(error.value)])
    assert os.listdir(tmp_path) == ["a.safetensors"]
    found = convert(path, tmp_path / "b.safetensors", "diffusers", leave_out=True)
    assert found["faults"]
    assert deltas(tmp_path / "b.safetensors")
