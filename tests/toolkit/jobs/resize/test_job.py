"""`resize`: other ranks, ΔW as near as they allow (SPEC section 8)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import lorakit
from loracore.adapter import read_adapter
from loracore.errors import FileError, UsageError
from tests.builders import real
from tests.toolkit.change.files import NAMES, by_lycoris, cut, deltas, distance, kohya

METADATA = {
    "ss_output_name": "before",
    "ss_tag_frequency": "{}",
    "ss_network_args": '{"conv_dim": "8", "dropout": "0.1"}',
}


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return kohya(tmp_path / "lora.safetensors", metadata=METADATA)


def ranks_of(path: Path) -> dict[str, int | None]:
    with read_adapter(str(path)) as adapter:
        return {module.name: module.rank for module in adapter.modules}


def test_svd_is_the_nearest_delta_of_its_rank(lora: Path, tmp_path: Path) -> None:
    """Matrices, convolutions and Tucker's; scale 1, alpha the new rank, the error that is told the real one."""
    found = lorakit.resize(lora, tmp_path / "out.safetensors", rank=3)
    before, after = deltas(lora), deltas(tmp_path / "out.safetensors")
    nearest = {name: cut(delta, 3) for name, delta in before.items()}
    assert distance(after, nearest) < 1e-6
    assert found["error"] == pytest.approx(distance(nearest, before), rel=1e-9)
    assert found["ranks"] == dict.fromkeys(before, 3)
    assert found["outputs"][0]["ranks"] == {"3": 7}
    layers = load_file(tmp_path / "out.safetensors")
    assert layers["lora_unet_down_blocks_0_resnets_1_conv1.lora_down.weight"].shape == (3, 6, 3, 3)
    assert layers["lora_unet_down_blocks_0_resnets_1_conv1.lora_up.weight"].shape == (24, 3, 1, 1)
    assert not any("lora_mid" in name for name in layers)
    assert {float(values) for name, values in layers.items() if name.endswith(".alpha")} == {3.0}
    first = f"{NAMES[0]}.lora_"
    up, down = layers[f"{first}up.weight"], layers[f"{first}down.weight"]
    assert np.allclose(np.linalg.norm(up, axis=0), np.linalg.norm(down, axis=1), rtol=1e-5)
    with safe_open(tmp_path / "out.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "3"
    assert metadata["ss_tag_frequency"] == "{}"
    assert json.loads(metadata["ss_network_args"]) == {"dropout": "0.1"}
    assert json.loads(metadata["lorad.parameters"]) == {"method": "svd", "rank": 3}
    assert json.loads(metadata["lorad.inputs"])[0]["sha256"] == lorakit.hashes(lora)["sha256"]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"sv_ratio": 4.0}, lambda values: int((values > values[0] / 4).sum())),
        ({"sv_fro": 0.9}, lambda values: 1 + int((np.cumsum(values**2) < 0.81 * (values**2).sum()).sum())),
        ({"sv_cumulative": 0.7}, lambda values: 1 + int((np.cumsum(values) < 0.7 * values.sum()).sum())),
        ({"sv_knee": True}, lambda values: 1 + int((np.linspace(values[0], values[-1], 8) - values).argmax())),
    ],
)
def test_rules_choose_ranks_by_the_spectrum(lora: Path, tmp_path: Path, options: dict, rule: object) -> None:
    """Of the whole core, with --rank as the cap."""
    found = lorakit.resize(lora, tmp_path / "out.safetensors", **options)
    capped = lorakit.resize(lora, tmp_path / "capped.safetensors", rank=2, **options)
    assert callable(rule)
    for name, delta in deltas(lora).items():
        wanted = rule(np.linalg.svd(delta, compute_uv=False)[:8])
        assert found["ranks"][name] == wanted
        assert capped["ranks"][name] == min(wanted, 2)
    assert ranks_of(tmp_path / "out.safetensors") == found["ranks"]


def test_blocks_have_ranks_of_their_own(lora: Path, tmp_path: Path) -> None:
    """By JSON, TOML or a dict; 0 leaves a block out; the others keep theirs, byte for byte."""
    with read_adapter(str(lora)) as adapter:
        blocks = {module.name: module.block for module in adapter.modules}
    up = next(block for block in blocks.values() if "up" in block)
    middle = next(block for block in blocks.values() if "mid" in block)
    table = tmp_path / "ranks.toml"
    table.write_text(f'"{up}" = 2\n"{middle}" = 0\n')
    found = lorakit.resize(lora, tmp_path / "a.safetensors", rank_per_block=table)
    for name, block in blocks.items():
        assert found["ranks"].get(name) == {up: 2, middle: None}.get(block, 8)
    (tmp_path / "ranks.json").write_text(json.dumps({up: 2, middle: 0}))
    assert (
        found["ranks"]
        == lorakit.resize(lora, tmp_path / "b.safetensors", rank_per_block=tmp_path / "ranks.json")["ranks"]
    )
    before, after = load_file(lora), load_file(tmp_path / "a.safetensors")
    for name, values in after.items():
        if "up_blocks" not in name:
            assert np.array_equal(values, before[name]), name


def test_pruning_keeps_the_blocks_that_importance_names(lora: Path, tmp_path: Path) -> None:
    """The smallest set that holds the share; what is left out counts as lost."""
    wanted = lorakit.importance(lora, threshold=0.6, percentiles=False)
    found = lorakit.resize(lora, tmp_path / "out.safetensors", prune=0.6)
    with read_adapter(str(tmp_path / "out.safetensors")) as adapter:
        assert {module.block for module in adapter.modules} == set(wanted["covering"])
    assert 0 < len(wanted["covering"]) < len(wanted["blocks"])
    assert found["error"] == pytest.approx((1 - wanted["covered"]) ** 0.5, rel=1e-6)


def test_a_budget_is_kept_and_used(tmp_path: Path) -> None:
    """No larger, hardly smaller, and better than one rank for all of that size."""
    lora = kohya(tmp_path / "lora.safetensors", sides=(400, 300), rank=16)
    for suffix, budget in ((".safetensors", 120_000), (".safetensors", "60kB"), (".pt", "90 kB")):
        found = lorakit.resize(lora, tmp_path / f"out{suffix}", budget=budget, force=True)
        most = budget if isinstance(budget, int) else 1000 * int(budget.rstrip("kB "))
        assert 0.7 * most < (tmp_path / f"out{suffix}").stat().st_size <= most
    found = lorakit.resize(lora, tmp_path / "out.safetensors", budget=80_000, force=True)
    for rank in range(1, 16):
        same = lorakit.resize(lora, tmp_path / "same.safetensors", rank=rank, force=True)
        if same["outputs"][0]["bytes"] <= 80_000:
            assert found["error"] < same["error"]
    with pytest.raises(UsageError, match="give more"):
        lorakit.resize(lora, tmp_path / "out.safetensors", budget=1000, force=True)


def test_truncate_and_pad_leave_factors_as_they_are(lora: Path, tmp_path: Path) -> None:
    """Cut factors are a part of those before, with the same scale; padding changes no ΔW."""
    found = lorakit.resize(lora, tmp_path / "cut.safetensors", rank=3, method="truncate")
    before, after = load_file(lora), load_file(tmp_path / "cut.safetensors")
    for name in NAMES:
        assert np.array_equal(after[f"{name}.lora_up.weight"], before[f"{name}.lora_up.weight"][:, :3])
        assert np.array_equal(after[f"{name}.lora_down.weight"], before[f"{name}.lora_down.weight"][:3])
        assert after[f"{name}.alpha"] == 1.5
    assert found["error"] == pytest.approx(distance(deltas(tmp_path / "cut.safetensors"), deltas(lora)), rel=1e-6)
    wide = lorakit.resize(lora, tmp_path / "wide.safetensors", rank=13, method="pad")
    assert set(wide["ranks"].values()) == {13}
    assert distance(deltas(tmp_path / "wide.safetensors"), deltas(lora)) < 1e-7
    lorakit.resize(tmp_path / "wide.safetensors", tmp_path / "back.safetensors", rank=8, method="truncate")
    again = load_file(tmp_path / "back.safetensors")
    for name in NAMES:
        assert np.array_equal(again[f"{name}.lora_up.weight"], before[f"{name}.lora_up.weight"])
        assert again[f"{name}.alpha"] == before[f"{name}.alpha"]
        added = load_file(tmp_path / "wide.safetensors")[f"{name}.lora_down.weight"][8:]
        assert np.abs(added).max() > 0


@pytest.mark.parametrize("algorithm", real.LYCORIS_ALGORITHMS)
def test_lycoris_files_become_lora(tmp_path: Path, algorithm: str) -> None:
    """LoCon, LoHa and LoKr by LyCORIS's own writer, convolutions too: the nearest ΔW, as float32 LoRA."""
    path = by_lycoris(tmp_path, algorithm)
    found = lorakit.resize(path, tmp_path / "out.safetensors", rank=1, dtype="float32")
    before, after = deltas(path), deltas(tmp_path / "out.safetensors")
    nearest = {name: cut(delta, 1) for name, delta in before.items()}
    assert distance(after, nearest) < 1e-6
    assert found["error"] == pytest.approx(distance(nearest, before), rel=1e-6)
    assert all(".lora_" in name or name.endswith(".alpha") for name in load_file(tmp_path / "out.safetensors"))


def test_diffusers_files_keep_their_names(tmp_path: Path) -> None:
    """As diffusers writes them; a scale that only metadata state goes into the factors."""
    for path in real.by_diffusers(str(tmp_path)):
        out = tmp_path / f"out{Path(path).suffix}"
        lorakit.resize(path, out, rank=2, dtype="float32")
        assert distance(deltas(out), {name: cut(delta, 2) for name, delta in deltas(path).items()}) < 1e-6
        with read_adapter(path) as before, read_adapter(str(out)) as after:
            assert before.layers.keys() == after.layers.keys()
            assert after.convention == "diffusers"
    names = ("unet.down_blocks.0.attentions.0.proj_in", "unet.down_blocks.0.attentions.0.proj_out")
    rng = np.random.default_rng(0)
    layers = {
        f"{name}.lora_{role}.weight": rng.standard_normal(shape).astype(np.float32)
        for name in names
        for role, shape in (("A", (4, 16)), ("B", (16, 4)))
    }
    stated = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 12})}
    save_file(layers, tmp_path / "scaled.safetensors", stated)
    wanted = {
        name: 3 * layers[f"unet.{name}.lora_B.weight"].astype(float) @ layers[f"unet.{name}.lora_A.weight"]
        for name in ("down_blocks.0.attentions.0.proj_in", "down_blocks.0.attentions.0.proj_out")
    }
    for rank in (4, 2):
        lorakit.resize(tmp_path / "scaled.safetensors", tmp_path / f"{rank}.safetensors", rank=rank)
        nearest = {name: cut(delta, rank) for name, delta in wanted.items()}
        assert distance(deltas(tmp_path / f"{rank}.safetensors"), nearest) < 1e-6


def test_other_layers_stay(lora: Path, tmp_path: Path) -> None:
    """Norms, biases, OFT and keys that nobody knows, byte for byte, and they are told of."""
    layers = load_file(lora)
    rng = np.random.default_rng(1)
    more = {
        "lora_unet_conv_norm_out.w_norm": rng.standard_normal(24).astype(np.float32),
        "lora_unet_conv_out.diff": rng.standard_normal((4, 5)).astype(np.float32),
        "lora_unet_time_embedding_linear_1.oft_blocks": rng.standard_normal((2, 4, 4)).astype(np.float32),
        "something.else": np.arange(5),
    }
    save_file(layers | more, lora)
    found = lorakit.resize(lora, tmp_path / "out.safetensors", rank=2)
    after = load_file(tmp_path / "out.safetensors")
    for name, values in more.items():
        assert after[name].dtype == values.dtype
        assert np.array_equal(after[name], values)
    told = " ".join(found["warnings"])
    assert all(word in told for word in ("norm", "full", "oft", "something.else"))


def test_dora_keeps_its_magnitude(lora: Path, tmp_path: Path) -> None:
    layers = load_file(lora)
    scale = np.linspace(1, 2, 24, dtype=np.float32)[:, None]
    layers[f"{NAMES[0]}.dora_scale"] = scale
    save_file(layers, lora)
    found = lorakit.resize(lora, tmp_path / "out.safetensors", rank=2)
    assert np.array_equal(load_file(tmp_path / "out.safetensors")[f"{NAMES[0]}.dora_scale"], scale)
    assert any("DoRA" in warning for warning in found["warnings"])
    assert distance(
        deltas(tmp_path / "out.safetensors"), {name: cut(delta, 2) for name, delta in deltas(lora).items()}
    ) < 1e-6  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_dtypes_and_containers(lora: Path, tmp_path: Path, dtype: str, suffix: str) -> None:
    """As asked for, to the rounding of each."""
    found = lorakit.resize(lora, tmp_path / f"out{suffix}", rank=4, dtype=dtype)
    assert found["outputs"][0]["dtype"] == dtype
    nearest = {name: cut(delta, 4) for name, delta in deltas(lora).items()}
    limit = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
    assert distance(deltas(tmp_path / f"out{suffix}"), nearest) < limit
    assert found["outputs"][0]["bytes"] == (tmp_path / f"out{suffix}").stat().st_size


def test_alpha_is_exact_where_the_dtype_has_no_such_number(tmp_path: Path) -> None:
    """bfloat16 knows 256 and 258 alone."""
    lora = kohya(tmp_path / "lora.safetensors", rank=300, sides=(320, 310), names=NAMES[:1])
    lorakit.resize(lora, tmp_path / "out.safetensors", rank=257, dtype="bfloat16")
    with read_adapter(str(tmp_path / "out.safetensors")) as adapter:
        module = next(module for module in adapter.modules if module.rank == 257)
        assert module.scale == 1
    # Nor is a number that float16 cannot hold at all a warning of numpy's.
    kohya(tmp_path / "large.safetensors", alpha=1e6)
    for number, options in enumerate(({"rank": 2, "method": "truncate"}, {"rank": 13, "method": "pad"})):
        output = tmp_path / f"large-{number}.safetensors"
        lorakit.resize(tmp_path / "large.safetensors", output, dtype="float16", **options)
        assert load_file(output)[f"{NAMES[0]}.alpha"].dtype == np.float32


def test_a_check_writes_nothing_and_tells_all(lora: Path, tmp_path: Path) -> None:
    """What would be written, to the byte, with the error; and what stands in the way, as a result."""
    told = lorakit.resize(lora, tmp_path / "out.safetensors", rank=3, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora.safetensors"]
    done = lorakit.resize(lora, tmp_path / "out.safetensors", rank=3)
    assert (told["is_valid"], told["written"], done["written"]) == (True, False, True)
    assert told["error"] == pytest.approx(done["error"])
    assert told["ranks"] == done["ranks"]
    sizes = [one["outputs"][0]["bytes"] for one in (told, done)]
    assert sizes[0] == sizes[1]
    again = lorakit.resize(lora, tmp_path / "out.safetensors", rank=3, check=True)
    assert not again["is_valid"]
    assert "--force" in again["errors"][0]


def test_bad_input_is_one_line_and_writes_nothing(lora: Path, tmp_path: Path) -> None:
    """The line names the file, the layer or the option."""
    out = tmp_path / "out.safetensors"
    for options, word in (
        ({}, "--rank"), ({"rank": 0}, "1 or more"), ({"rank": 9}, "more than 8"),
        ({"rank": 2, "method": "pad"}, "pad"), ({"prune": 1.5}, "--prune"), ({"sv_fro": 2.0}, "--sv-fro"),
        ({"sv_ratio": 0.5}, "--sv-ratio"), ({"sv_ratio": 2.0, "sv_knee": True}, "several"),
        ({"budget": 90000, "sv_knee": True}, "budget"), ({"sv_knee": True, "method": "truncate"}, "truncate"),
        ({"rank": 60, "method": "pad"}, "more than 24"), ({"rank": 10**20}, "wrong parameters"),
        ({"budget": "lots"}, "lots"), ({"rank_per_block": {"nowhere": 4}}, "nowhere"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=word):
            lorakit.resize(lora, out, **options)
    layers = load_file(lora)
    layers[f"{NAMES[2]}.lora_down.weight"][1, 1] = np.nan
    save_file(layers, tmp_path / "nan.safetensors")
    for options in ({"rank": 2}, {"rank": 8}, {"sv_knee": True}):
        with pytest.raises(FileError, match=rf"nan.safetensors.*{NAMES[2]}.lora_down.weight.*1 NaN"):
            lorakit.resize(tmp_path / "nan.safetensors", out, **options)
    with pytest.raises(UsageError, match="read for this"):
        lorakit.resize(lora, lora, rank=2, force=True)
    with pytest.raises(FileError, match="folder"):
        lorakit.resize(lora, tmp_path / "no" / "out.safetensors", rank=2)
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora.safetensors", "nan.safetensors"]


def test_values_that_do_not_fit_are_refused(lora: Path, tmp_path: Path) -> None:
    """float16 ends at 65504; the layer is named, and nothing is left behind."""
    layers = load_file(lora)
    for role in ("up", "down"):
        layers[f"{NAMES[0]}.lora_{role}.weight"] *= 1e6
    save_file(layers, lora)
    with pytest.raises(UsageError, match=r"float16.*--dtype float32"):
        lorakit.resize(lora, tmp_path / "out.safetensors", rank=2, dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["lora.safetensors"]
