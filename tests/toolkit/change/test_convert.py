"""`convert`: the same ΔW under every convention's names, as the real libraries load it (SPEC section 8)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.toolkit.change.converting import CLOSE, assert_same, convert, deltas, models, sd15, sdxl
from tests.toolkit.change.libraries import by_diffusers, by_peft, kohya, save, unet


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    made = {"sd15": sd15, "sdxl": sdxl}[request.param](tmp_path_factory.mktemp(request.param))
    return request.param, made


def test_a_round_trip_gives_back_every_bit(trained: tuple[str, Path], tmp_path: Path) -> None:
    """By kohya, PEFT, diffusers, kohya: the same names, factors and alphas, with ranks and alphas that differ."""
    _, path = trained
    convert(path, tmp_path / "peft", "peft")
    convert(tmp_path / "peft", tmp_path / "diffusers.safetensors", "diffusers")
    convert(tmp_path / "diffusers.safetensors", tmp_path / "back.safetensors", "kohya")
    before, after = load_file(path), load_file(tmp_path / "back.safetensors")
    assert after.keys() == before.keys()
    for name, values in before.items():
        assert after[name].dtype == values.dtype
        assert torch.equal(after[name], values), name
    assert_same(deltas(tmp_path / "diffusers.safetensors"), deltas(path))


def test_diffusers_loads_each_result_with_one_delta(trained: tuple[str, Path], tmp_path: Path) -> None:
    """Its own names with scales in the header, and kohya's through its converter: every weight gains the same."""
    family, path = trained
    convert(path, tmp_path / "diffusers.safetensors", "diffusers")
    gained = by_diffusers(tmp_path / "diffusers.safetensors", family, *models(family))
    assert_same(
        {_weight(name, dotted=True): value for name, value in gained.items()},
        {_weight(name): delta for name, delta in deltas(path).items()}, CLOSE,
    )  # fmt: skip
    # Its converter of kohya's names confuses alphas that differ (diffusers 0.42, `_get_alpha_name`).
    tensors = {name: values if values.ndim else values * 0 + 2 for name, values in load_file(path).items()}
    save(tmp_path / "alike.safetensors", tensors)
    convert(tmp_path / "alike.safetensors", tmp_path / "alike-diffusers.safetensors", "diffusers")
    convert(tmp_path / "alike-diffusers.safetensors", tmp_path / "kohya.safetensors", "kohya")
    expected = by_diffusers(tmp_path / "alike-diffusers.safetensors", family, *models(family))
    assert_same(by_diffusers(tmp_path / "kohya.safetensors", family, *models(family)), expected, CLOSE)


def _weight(name: str, *, dotted: bool = False) -> str:
    """One name for a module, whether ours or that of a weight in a pipeline."""
    if dotted:
        name = name.removesuffix(".weight").replace("text_encoder_2.", "te2.").replace("text_encoder.", "te1.")
        return name.replace(".text_model.", ".")
    component, _, rest = name.partition(":")
    return rest.replace(".text_model.", ".") if component.startswith("te") else rest


def test_peft_loads_each_models_folder(trained: tuple[str, Path], tmp_path: Path) -> None:
    """A folder for each model of the pipeline; every weight gains what diffusers adds."""
    family, path = trained
    found = convert(path, tmp_path / "peft", "peft")
    model, texts = models(family)
    convert(path, tmp_path / "diffusers.safetensors", "diffusers")
    expected = by_diffusers(tmp_path / "diffusers.safetensors", family, *models(family))
    gained = by_peft(tmp_path / "peft" / "unet", model)
    for name, text in texts.items():
        gained |= {f"{name}.{weight}": value for weight, value in by_peft(tmp_path / "peft" / name, text).items()}
    assert_same(gained, expected, CLOSE)
    assert {Path(each["path"]).parent.name for each in found["outputs"]} == {"unet", *texts}


def test_ranks_and_alphas_are_in_the_configuration(tmp_path: Path) -> None:
    """The usual r and lora_alpha are those of most modules; the patterns have the others."""
    path = save(tmp_path / "a.safetensors", kohya(unet(), "lora_unet_"))
    convert(path, tmp_path / "peft", "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 2)
    assert set(config["rank_pattern"].values()) == {3}
    assert config["rank_pattern"].keys() == config["alpha_pattern"].keys()
    assert set(config["alpha_pattern"].values()) == {1.5}
