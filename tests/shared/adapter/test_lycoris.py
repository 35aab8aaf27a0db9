"""ΔW of files that LyCORIS wrote, against what LyCORIS computes itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lycoris import LycorisNetwork, create_lycoris
from torch import nn

from loracore.adapter import NeedsBase, read_adapter
from tests.shared.adapter.measures import apart, by_key

#: Algorithm, and options of LyCORIS, in every form that its files take.
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {"algo": "lora"},
    "locon": {"algo": "locon"},
    "locon-tucker": {"algo": "locon", "use_tucker": True},
    "locon-rs": {"algo": "locon", "rs_lora": True},
    "loha": {"algo": "loha"},
    "loha-tucker": {"algo": "loha", "use_tucker": True},
    "lokr": {"algo": "lokr"},
    "lokr-factor": {"algo": "lokr", "factor": 4},
    "lokr-both": {"algo": "lokr", "decompose_both": True, "linear_dim": 2, "conv_dim": 2},
    "lokr-tucker": {"algo": "lokr", "use_tucker": True, "linear_dim": 2, "conv_dim": 2},
    "lokr-full": {"algo": "lokr", "full_matrix": True, "linear_dim": 1000, "conv_dim": 1000},
    "lokr-unbalanced": {"algo": "lokr", "unbalanced_factorization": True},
    "full": {"algo": "full"},
}
#: The same where ΔW does not stand alone.
BASED: dict[str, dict[str, Any]] = {
    "dora": {"algo": "locon", "dora_wd": True},
    "dora-in": {"algo": "locon", "dora_wd": True, "wd_on_output": False},
    "loha-dora": {"algo": "loha", "dora_wd": True},
    "lokr-dora": {"algo": "lokr", "dora_wd": True, "wd_on_output": False},
    "glora": {"algo": "glora"},
    "diag-oft": {"algo": "diag-oft"},
    "diag-oft-constraint": {"algo": "diag-oft", "constraint": 0.001, "rescaled": True},
    "boft": {"algo": "boft"},
    "boft-rescaled": {"algo": "boft", "rescaled": True},
    "ia3": {"algo": "ia3"},
    "ia3-in": {"algo": "ia3", "train_on_input": True},
}


def network(options: dict[str, Any], seed: int = 0) -> LycorisNetwork:
    """A network over two linear layers, two convolutions and a norm, all its parameters random."""
    torch.manual_seed(seed)
    model = nn.ModuleDict({
        "down_blocks": nn.Sequential(
            nn.Linear(48, 64), nn.Linear(64, 96, bias=False), nn.Conv2d(32, 64, 1), nn.Conv2d(48, 64, 3)
        ),
        "norms": nn.Sequential(nn.LayerNorm(64), nn.GroupNorm(4, 64)),
    })  # fmt: skip
    LycorisNetwork.apply_preset({"enable_conv": True, "target_module": ["Sequential"]})
    given = {"linear_dim": 8, "linear_alpha": 3.0, "conv_dim": 4, "conv_alpha": 1.0, "train_norm": True} | options
    made = create_lycoris(model, 1.0, **given)
    made.apply_to()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "dora_scale" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.mul_(1 + torch.rand_like(parameter))
    return made


def save(made: LycorisNetwork, folder: Path) -> str:
    path = os.path.join(folder, "lycoris.safetensors")
    made.save_weights(path, None, {"ss_network_module": "lycoris.kohya"})
    return path


def difference(module: Any) -> torch.Tensor:
    """What LyCORIS adds in `forward`. Its `get_diff_weight` of LoHa and LoKr applies the scale twice (4.1)."""
    if module.name in {"loha", "kron"}:
        weight: torch.Tensor = module.get_weight(module.shape)
        return weight
    found: torch.Tensor = module.get_diff_weight()[0]
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_delta_is_what_lycoris_adds(variant: str, tmp_path: Path) -> None:
    """ΔW of every module equals LyCORIS's own to 1e-6, and so does the bias's."""
    made = network(VARIANTS[variant])
    with torch.no_grad():
        expected = {module.lora_name: (difference(module), module) for module in made.loras}
        adapter = read_adapter(save(made, tmp_path))
        assert not adapter.problems
        found = by_key(adapter)
        assert len(found) == len(expected) == 6
        for name, (weight, module) in expected.items():
            assert apart(found[name].delta(), weight) < 1e-6, name
            assert apart(found[name].delta(np.float64), weight) < 1e-6, name
            if module.name in {"norm", "full"} and (bias := module.get_diff_weight()[1]) is not None:
                delta = found[name].bias_delta()
                assert delta is not None
                assert apart(delta, bias) < 1e-6


@pytest.mark.parametrize("variant", BASED)
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_algorithms_that_need_the_base_give_lycoris_weight(variant: str, strength: float, tmp_path: Path) -> None:
    """`applied` equals the weight that LyCORIS's forward uses, and ΔW alone is refused by name."""
    made = network(BASED[variant])
    with torch.no_grad():
        found = by_key(read_adapter(save(made, tmp_path)))
        for module in made.loras:
            if module.name == "norm":
                continue
            base = module.org_weight
            if getattr(module, "wd", False):
                merged = module.apply_weight_decompose(base + difference(module), strength)
            elif module.name in {"glora", "ia3"}:
                merged = base + module.get_diff_weight(strength)[0]
            else:
                merged = module.get_merged_weight(strength)[0]
            ours = found[module.lora_name]
            assert ours.needs_base
            assert apart(ours.applied(base.numpy(), strength), merged) < 2e-6
            if not getattr(module, "wd", False):
                with pytest.raises(NeedsBase, match=ours.name):
                    ours.delta()


@pytest.mark.parametrize("variant", ["locon", "locon-tucker"])
def test_pair_is_delta(variant: str, tmp_path: Path) -> None:
    """S · B·A is ΔW, a mid contracted; modules without such a form say so."""
    adapter = read_adapter(save(network(VARIANTS[variant]), tmp_path))
    for module in adapter.modules:
        pair = module.pair()
        if module.algorithm == "norm":
            assert pair is None
            continue
        assert pair is not None
        b, a, scale = pair
        assert b.shape == (module.shape[0], module.rank)
        assert apart(scale * b @ a, module.delta().reshape(module.shape[0], -1)) < 1e-6


def test_algorithms_are_told_apart(tmp_path: Path) -> None:
    """Each variant has the algorithm's name that people know."""
    for variant, options in {**VARIANTS, **BASED}.items():
        adapter = read_adapter(save(network(options), tmp_path))
        names = {module.algorithm for module in adapter.modules} - {"norm"}
        kind = variant.split("-")[0]
        expected = {
            "lora": {"lora", "locon"},
            "locon": {"lora", "locon"},
            "diag": {"oft"},
            "boft": {"oft"},
        }.get(kind, {kind})
        assert names == expected, variant
        assert adapter.convention == "lycoris" if kind not in {"lora", "dora"} else adapter.convention
