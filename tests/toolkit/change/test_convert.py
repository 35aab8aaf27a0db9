"""`convert`: the same ΔW under every convention's names, as the real libraries load it (SPEC section 8)."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import lorakit
from loracore.adapter import read_adapter
from loracore.errors import FileError, UsageError
from tests.toolkit.change.libraries import by_diffusers, by_peft, clip, flux, kohya, save, unet

#: What float16 factors, whose products are summed in single precision, may differ by.
CLOSE = 1e-6


def convert(path: Path, output: Path, to: Any = None, **options: Any) -> dict[str, Any]:
    found = lorakit.convert(path, output, to=to, **options)
    assert found["is_valid"]
    assert found["written"]
    return found


def deltas(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """ΔW of each module, by component and name, as our own reader has it."""
    with read_adapter(os.fspath(path)) as adapter:
        assert not [problem for problem in adapter.problems if problem.level == "error"]
        return {f"{module.component}:{module.name}": module.delta(np.float64) for module in adapter.modules}


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any], within: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        wanted = np.asarray(values, np.float64)
        assert np.linalg.norm(wanted) > 0
        one = np.asarray(found[name], np.float64).reshape(wanted.shape)
        assert np.linalg.norm(one - wanted) <= within * np.linalg.norm(wanted), name


def original(name: str) -> str:
    """The original SDXL name of a module of diffusers' UNet with three levels."""
    side, block, kind, layer, rest = re.match(  # type: ignore[union-attr]
        r"(down|mid|up)_block(?:s\.(\d))?\.(attentions|resnets)\.(\d)\.(.*)", name
    ).groups()
    rest = {"conv1": "in_layers.2", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}.get(rest, rest)
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(layer)}.{rest}"
    number = 3 * int(block) + int(layer) + (side == "down")
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{int(kind == 'attentions')}.{rest}"


def texted(name: str) -> str:
    """CLIP's modules as they were called before transformers 5, which is what files have."""
    return name if name.startswith("text_model.") else f"text_model.{name}"


def sd15(folder: Path) -> Path:
    tensors = kohya(unet("sd15"), "lora_unet_") | kohya(clip(), "lora_te_", texted, seed=1)
    return save(
        folder / "sd15.safetensors", tensors, {"ss_output_name": "style", "ss_base_model_version": "sd_v1"}
    )


def sdxl(folder: Path) -> Path:
    tensors = kohya(unet("sdxl"), "lora_unet_", original) | kohya(clip(), "lora_te1_", texted, seed=1)
    return save(folder / "sdxl.safetensors", tensors | kohya(clip(projection=True), "lora_te2_", texted, seed=2))


def models(family: str) -> tuple[Any, dict[str, Any]]:
    texts = {"text_encoder": clip()} | ({"text_encoder_2": clip(projection=True)} if family == "sdxl" else {})
    return unet(family), texts


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


# Flux


def flux_file(path: Path, *, blocks: bool = False) -> Path:
    """A file as sd-scripts writes it for a small Flux."""
    width, tensors = 32, {}
    sizes = {}
    for block in range(2):
        for stream in ("img", "txt"):
            root = f"double_blocks_{block}_{stream}"
            sizes |= {
                f"{root}_attn_qkv": (3 * width, width), f"{root}_attn_proj": (width, width),
                f"{root}_mlp_0": (4 * width, width), f"{root}_mlp_2": (width, 4 * width),
                f"{root}_mod_lin": (6 * width, width),
            }  # fmt: skip
        sizes[f"single_blocks_{block}_linear1"] = (7 * width, width)
        sizes[f"single_blocks_{block}_linear2"] = (width, 5 * width)
        sizes[f"single_blocks_{block}_modulation_lin"] = (3 * width, width)
    sizes |= {"final_layer_adaLN_modulation_1": (2 * width, width), "img_in": (width, 4), "txt_in": (width, 8)}
    generator = torch.Generator().manual_seed(0)
    for name, (out, inputs) in sizes.items():
        rank = 12
        up = torch.randn(out, rank, generator=generator)
        if blocks and name.endswith("qkv"):
            up *= torch.block_diag(*[torch.ones(width, 4)] * 3)
        tensors[f"lora_unet_{name}.lora_down.weight"] = torch.randn(rank, inputs, generator=generator).bfloat16()
        tensors[f"lora_unet_{name}.lora_up.weight"] = up.bfloat16()
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(3.0 if "qkv" in name else 6.0, dtype=torch.bfloat16)
    return save(path, tensors)


def test_a_fused_projection_is_cut_and_joined(tmp_path: Path) -> None:
    """Flux: kohya's qkv and linear1 are three and four modules of diffusers', whose weights gain the same rows."""
    path = flux_file(tmp_path / "kohya.safetensors")
    convert(path, tmp_path / "diffusers.safetensors", "diffusers")
    gained = by_diffusers(tmp_path / "diffusers.safetensors", "flux", flux())
    ours = {name.removeprefix("transformer:"): delta for name, delta in deltas(path).items()}
    for block in range(2):
        for stream, names in (
            ("img", ("to_q", "to_k", "to_v")),
            ("txt", ("add_q_proj", "add_k_proj", "add_v_proj")),
        ):
            rows = [gained.pop(f"transformer_blocks.{block}.attn.{name}.weight").numpy() for name in names]
            assert_same(
                {"": np.concatenate(rows)}, {"": ours.pop(f"double_blocks.{block}.{stream}_attn.qkv")}, CLOSE
            )
        root = f"single_transformer_blocks.{block}"
        parts = [f"{root}.attn.{name}" for name in ("to_q", "to_k", "to_v")] + [f"{root}.proj_mlp"]
        rows = [gained.pop(f"{part}.weight").numpy() for part in parts]
        assert_same({"": np.concatenate(rows)}, {"": ours.pop(f"single_blocks.{block}.linear1")}, CLOSE)
    shift, scale = np.split(ours.pop("final_layer.adaLN_modulation.1"), 2)
    assert_same({"": gained.pop("norm_out.linear.weight")}, {"": np.concatenate([scale, shift])}, CLOSE)
    assert len(gained) == len(ours) == 2 * (2 * 4 + 2) + 2


def test_diffusers_finds_the_same_in_kohyas_flux_file(tmp_path: Path) -> None:
    """But for linear1, which its converter cuts by the widths of the released model alone."""
    path = flux_file(tmp_path / "kohya.safetensors")
    tensors = {name: values for name, values in load_file(path).items() if "linear1" not in name}
    # It drops the alpha of the final layer, and has no prefix for the embedders.
    tensors = {name: values for name, values in tensors.items() if "_blocks_" in name}
    path = save(path, tensors)
    convert(path, tmp_path / "diffusers.safetensors", "diffusers")
    assert_same(
        by_diffusers(tmp_path / "diffusers.safetensors", "flux", flux()), by_diffusers(path, "flux", flux()), CLOSE
    )
    convert(tmp_path / "diffusers.safetensors", tmp_path / "back.safetensors", "kohya")
    after = load_file(tmp_path / "back.safetensors")
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], values) for name, values in tensors.items())


@pytest.mark.parametrize("blocks", [False, True])
def test_a_flux_round_trip_keeps_every_bit(blocks: bool, tmp_path: Path) -> None:
    """Through PEFT and diffusers; a projection of blocks becomes parts of its blocks' rank, and blocks again."""
    path = flux_file(tmp_path / "kohya.safetensors", blocks=blocks)
    convert(path, tmp_path / "peft", "peft")
    convert(tmp_path / "peft", tmp_path / "diffusers.safetensors", "diffusers")
    convert(tmp_path / "diffusers.safetensors", tmp_path / "back.safetensors", "kohya")
    part = "transformer.transformer_blocks.0.attn.to_k.lora_A.weight"
    assert len(load_file(tmp_path / "diffusers.safetensors")[part]) == (4 if blocks else 12)
    before, after = load_file(path), load_file(tmp_path / "back.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], values) for name, values in before.items())
    gained = by_peft(tmp_path / "peft", flux())
    assert_same(gained, by_diffusers(tmp_path / "diffusers.safetensors", "flux", flux()), CLOSE)


def test_parts_that_differ_become_blocks(tmp_path: Path) -> None:
    """Each with its own A, rank and scale; a part that was not trained is zero."""
    generator = torch.Generator().manual_seed(3)
    tensors, sizes = {}, {"attn.to_q": (2, 32), "attn.to_v": (3, 32), "proj_mlp": (2, 128)}
    for name, (rank, out) in sizes.items():
        root = f"transformer.single_transformer_blocks.0.{name}"
        tensors[f"{root}.lora_A.weight"] = torch.randn(rank, 32, generator=generator)
        tensors[f"{root}.lora_B.weight"] = torch.randn(out, rank, generator=generator)
    path = save(tmp_path / "a.safetensors", tensors)
    convert(path, tmp_path / "b.safetensors", "kohya")
    (joined,) = deltas(tmp_path / "b.safetensors").values()
    parts = {name.rpartition("blocks.0.")[2]: delta for name, delta in deltas(path).items()}
    expected = [parts["attn.to_q"], np.zeros((32, 32)), parts["attn.to_v"], parts["proj_mlp"]]
    assert_same({"": joined}, {"": np.concatenate(expected)})
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "diffusers")
    again = {name.rpartition("blocks.0.")[2]: delta for name, delta in deltas(tmp_path / "c.safetensors").items()}
    assert not again.pop("attn.to_k").any()
    assert_same(again, parts)


# Other algorithms, and what has no name


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


ATTENTION = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DOTTED = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONVOLUTION = "down_blocks_0_resnets_0_conv1"


def small(path: Path, **changes: torch.Tensor | None) -> Path:
    """A kohya file of one linear module and one convolution of the small UNet."""
    tensors: dict[str, torch.Tensor | None] = {
        f"lora_unet_{ATTENTION}.lora_down.weight": randn(2, 8),
        f"lora_unet_{ATTENTION}.lora_up.weight": randn(8, 2, seed=1),
        f"lora_unet_{ATTENTION}.alpha": torch.tensor(1.0),
        f"lora_unet_{CONVOLUTION}.lora_down.weight": randn(2, 8, 3, 3, seed=2),
        f"lora_unet_{CONVOLUTION}.lora_up.weight": randn(8, 2, 1, 1, seed=3),
        f"lora_unet_{CONVOLUTION}.alpha": torch.tensor(1.0),
    }
    tensors |= {name.replace("LINEAR", f"lora_unet_{ATTENTION}").replace("CONV", f"lora_unet_{CONVOLUTION}"): value
                for name, value in changes.items()}  # fmt: skip
    return save(path, {name: value for name, value in tensors.items() if value is not None})


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


def save_peft(tuned: Any, folder: Path) -> None:
    """As PEFT saves an adapter, whose biases are not zero."""
    for name, weight in tuned.named_parameters():
        if name.endswith("lora_B.default.bias"):
            torch.nn.init.normal_(weight)
    tuned.save_pretrained(folder)


def llm(folder: Path, **options: Any) -> tuple[Path, Any]:
    """A language model's adapter as PEFT saves it, and the model."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    def model() -> Any:
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, attention_bias=True,
            )
        )  # fmt: skip

    given: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "down_proj"],
        "init_lora_weights": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_peft(get_peft_model(model(), LoraConfig(**(given | options))), folder)
    return folder, model


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


# Containers and dtypes


@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors"])
def test_container_and_dtype_alone(suffix: str, tmp_path: Path) -> None:
    """Names stay, values are torch's rounding of them, alpha keeps its value, and torch loads weights only."""
    path = small(
        tmp_path / "a.safetensors", **{"LINEAR.alpha": torch.tensor(257.0), "some.thing": torch.arange(3)}
    )
    output = tmp_path / f"b.{suffix}"
    convert(path, output, dtype="bfloat16")
    before = load_file(path)
    after = load_file(output) if suffix == "safetensors" else torch.load(output, weights_only=True)
    assert after.keys() == before.keys()
    for name, values in before.items():
        if name.endswith("to_q.alpha"):
            assert after[name].item() == 257.0
        elif name == "some.thing":
            assert torch.equal(after[name], values)
        else:
            assert torch.equal(after[name], values.to(torch.bfloat16))
    convert(output, tmp_path / f"c.{suffix}", "diffusers", leave_out=True)
    assert_same(deltas(tmp_path / f"c.{suffix}"), deltas(output), 1e-2)


def test_without_a_place_for_alpha_the_scale_is_in_the_factors(tmp_path: Path) -> None:
    """PEFT's single file, diffusers' in torch's container, and whatever is asked for with `fold`."""
    path = small(tmp_path / "a.safetensors")
    for output, to, fold in (
        ("b.safetensors", "peft", False),
        ("c.pt", "diffusers", False),
        ("d.safetensors", "kohya", True),
    ):
        found = convert(path, tmp_path / output, to, fold=fold)
        assert bool(found["warnings"]) is not fold
        with read_adapter(os.fspath(tmp_path / output)) as adapter:
            assert {module.scale for module in adapter.modules} == {1.0}
        assert_same(deltas(tmp_path / output), deltas(path))
    convert(tmp_path / "b.safetensors", tmp_path / "peft", "peft")
    ours = {f"{name.removeprefix('unet:')}.weight": delta for name, delta in deltas(path).items()}
    assert_same(by_peft(tmp_path / "peft", unet()), ours, CLOSE)
    folder, _ = llm(tmp_path / "llm")
    convert(folder, tmp_path / "e.safetensors")
    assert_same(deltas(tmp_path / "e.safetensors"), deltas(folder), 1e-6)


def test_a_header_says_how_it_was_made(tmp_path: Path) -> None:
    """Whence, and what was asked for; what the input says of its training stays, but not what it says of bytes."""
    path = sd15(tmp_path)
    convert(path, tmp_path / "b.safetensors", "diffusers")
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "kohya")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        made = file.metadata()
    assert made["ss_base_model_version"] == "sd_v1"
    assert json.loads(made["lorad.inputs"])[0]["sha256"] == lorakit.hashes(path)["sha256"]
    assert json.loads(made["lorad.parameters"]) == {"to": "diffusers"}
    assert lorakit.hashes(tmp_path / "b.safetensors")["sshs_model_hash"] == made["sshs_model_hash"]
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        assert "lora_adapter_metadata" not in file.metadata()


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    """Neither a file nor a folder; an input never, and no folder that is no adapter."""
    path = small(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_text("mine")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    for output, to, force, word in (
        ("b.safetensors", "kohya", False, "--force"), ("a.safetensors", "kohya", True, "it is read for this"),
        ("home", "peft", False, "--force"), ("home", "peft", True, "without adapter_config.json"),
        ("none/x.safetensors", "kohya", False, "make that folder"), ("x.txt", "kohya", False, "no container"),
        ("x", "diffusers", False, "no container"),
    ):  # fmt: skip
        with pytest.raises((UsageError, FileError), match=word):
            lorakit.convert(path, tmp_path / output, to=to, force=force)
    assert (tmp_path / "b.safetensors").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors", "home"]
    convert(path, tmp_path / "b.safetensors", "kohya", force=True)
    convert(path, tmp_path / "peft", "peft")
    convert(path, tmp_path / "peft", "peft", force=True)
    with pytest.raises(UsageError, match="it is read for this"):
        lorakit.convert(tmp_path / "peft", tmp_path / "peft", to="peft", force=True)
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors", "home", "peft"]
    assert os.listdir(tmp_path / "home") == ["letter.txt"]


def test_several_models_do_not_fit_into_one_peft_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"text_encoder.*give -o a folder"):
        lorakit.convert(sd15(tmp_path), tmp_path / "x.safetensors", to="peft")
