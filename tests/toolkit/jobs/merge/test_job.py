"""`merge`: several LoRAs as one (SPEC section 8)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import lorakit
from loracore.adapter import read_adapter
from loracore.errors import FileError, UsageError
from lorakit.jobs.merge import ties
from lorakit.modules.factors import Factors
from tests.builders import real
from tests.toolkit.change.files import NAMES, Doubles, by_lycoris, cut, deltas, distance, kohya


@pytest.fixture
def loras(tmp_path: Path) -> list[Path]:
    """Of ranks 8, 5 and 3."""
    return [kohya(tmp_path / f"{rank}.safetensors", rank, rank=rank) for rank in (8, 5, 3)]


def total(paths: list[Path], weights: tuple[float, ...]) -> dict[str, Doubles]:
    found: dict[str, Doubles] = {}
    for path, weight in zip(paths, weights, strict=True):
        for name, delta in deltas(path).items():
            found[name] = found.get(name, 0) + weight * delta
    return found


def test_linear_is_exact(loras: list[Path], tmp_path: Path) -> None:
    """The sum of ΔW, not of factors, with the sum of ranks; A is there bit for bit, but for powers of two."""
    weights = (0.7, -0.3, 0.5)
    found = lorakit.merge(loras, tmp_path / "out.safetensors", weights=weights)
    assert distance(deltas(tmp_path / "out.safetensors"), total(loras, weights)) < 1e-7
    assert set(found["ranks"].values()) == {16}
    assert found["error"] is None
    down = f"{NAMES[0]}.lora_down.weight"
    ratio = load_file(tmp_path / "out.safetensors")[down][:8] / load_file(loras[0])[down]
    assert len(np.unique(ratio)) == 1
    assert np.log2(ratio[0, 0]) % 1 == 0
    with safe_open(tmp_path / "out.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata["modelspec.merged_from"] == "8.safetensors, 5.safetensors, 3.safetensors"
    assert json.loads(metadata["lorad.parameters"])["weights"] == list(weights)
    assert metadata["ss_network_dim"] == "16"


@pytest.mark.parametrize("method", ["linear", "svd"])
def test_a_rank_takes_the_nearest_to_the_sum(loras: list[Path], tmp_path: Path, method: str) -> None:
    """To a millionth of the optimum, with the error that is told; by default `svd` has the greatest rank."""
    weights = (1.0, 0.4, 2.0)
    wanted = total(loras, weights)
    for rank in (2, 6, None):
        if rank is None and method == "linear":
            continue
        out = tmp_path / "out.safetensors"
        found = lorakit.merge(loras, out, weights=weights, method=method, rank=rank, force=True)
        nearest = {name: cut(delta, rank or 8) for name, delta in wanted.items()}
        assert distance(deltas(out), nearest) < 1e-6
        assert found["error"] == pytest.approx(distance(nearest, wanted), rel=1e-9)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 12), st.floats(-2, 2)), min_size=1, max_size=4), st.integers(1, 20))
def test_any_ranks_and_weights(tmp_path_factory: pytest.TempPathFactory, given: list, rank: int) -> None:
    """Sums of ranks beyond the sides of ΔW too; weights that cancel are refused and nothing else is."""
    folder = tmp_path_factory.mktemp("merge")
    paths = [
        kohya(folder / f"{n}.safetensors", n, rank=own, sides=(9, 11), names=NAMES[:1])
        for n, (own, _) in enumerate(given)
    ]
    weights = tuple(weight if abs(weight) > 1e-3 else 0.0 for _, weight in given)
    wanted = total(paths, weights)
    out = folder / "out.safetensors"
    most = min(sum(own for (own, _), weight in zip(given, weights, strict=True) if weight), 9)
    if rank > most:
        with pytest.raises(UsageError, match=r"more than|weights are 0"):
            lorakit.merge(paths, out, weights=weights, rank=rank)
        return
    found = lorakit.merge(paths, out, weights=weights, rank=rank)
    nearest = {name: cut(delta, rank) for name, delta in wanted.items()}
    assert distance(deltas(folder / "out.safetensors"), nearest) < 1e-5
    assert found["error"] == pytest.approx(distance(nearest, wanted), rel=1e-6, abs=1e-7)


def test_normalized_weights_sum_to_1(loras: list[Path], tmp_path: Path) -> None:
    lorakit.merge(loras, tmp_path / "out.safetensors", weights=(1, 2, 5), normalize=True)
    assert distance(deltas(tmp_path / "out.safetensors"), total(loras, (0.125, 0.25, 0.625))) < 1e-7


def test_modules_of_some_inputs_are_taken_from_these(tmp_path: Path) -> None:
    first = kohya(tmp_path / "a.safetensors", 1, names=NAMES[:2])
    second = kohya(tmp_path / "b.safetensors", 2, names=NAMES[1:])
    found = lorakit.merge([first, second], tmp_path / "out.safetensors", weights=(0.5, 2))
    assert distance(deltas(tmp_path / "out.safetensors"), total([first, second], (0.5, 2))) < 1e-7
    assert sorted(set(found["ranks"].values())) == [8, 16]


def test_patterns_choose_modules(loras: list[Path], tmp_path: Path) -> None:
    """By canonical names and by keys; one that matches nothing is a mistake, and is told."""
    out = tmp_path / "out.safetensors"
    lorakit.merge(loras, out, include=["down_blocks.*", "lora_te_*"], exclude=["*conv1"])
    names = set(deltas(out))
    assert names == {name for name in deltas(loras[0]) if "down" in name or "te1" in name} - {
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.0.resnets.1.conv1",
    }
    for options in ({"include": ["nowhere"]}, {"exclude": ["nowhere"]}):
        with pytest.raises(UsageError, match="nowhere"):
            lorakit.merge(loras, out, force=True, **options)
    with pytest.raises(UsageError, match="nothing to merge"):
        lorakit.merge(loras, out, exclude=["*"], force=True)


def test_pca_keeps_what_weighs_in_the_inputs(loras: list[Path], tmp_path: Path) -> None:
    """The sum projected onto the first left singular vectors of [w₁ΔW₁ …], by numpy's dense SVD."""
    weights = (1.0, -0.5, 0.8)
    found = lorakit.merge(loras, tmp_path / "out.safetensors", weights=weights, method="pca", rank=4)
    parts = [deltas(path) for path in loras]
    wanted = {}
    for name, delta in total(loras, weights).items():
        aside = np.hstack([weight * part[name] for weight, part in zip(weights, parts, strict=True)])
        basis = np.linalg.svd(aside, full_matrices=False)[0][:, :4]
        wanted[name] = basis @ basis.T @ delta
    assert distance(deltas(tmp_path / "out.safetensors"), wanted) < 1e-6
    assert found["error"] == pytest.approx(distance(wanted, total(loras, weights)), rel=1e-6)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "dare_linear"])
def test_entries_are_elected_as_by_peft(loras: list[Path], tmp_path: Path, method: str) -> None:
    """PEFT's own functions on the same dense ΔW; what DARE draws is drawn once for both."""
    import torch
    from peft.utils import merge_utils

    from lorakit.jobs.merge.ties import dropping

    weights = (0.6, 1.0, -0.4)
    lorakit.merge(
        loras, tmp_path / "out.safetensors", weights=weights, method=method, rank=20, density=0.3, seed=7
    )
    found, parts = deltas(tmp_path / "out.safetensors"), [deltas(path) for path in loras]
    wanted = {}
    for name in found:
        tensors = [part[name].astype(np.float32) for part in parts]
        if method != "ties":
            tensors = [dropping(0.3, 7, name)(tensor, n) for n, tensor in enumerate(tensors)]
        # peft lets all vote alike; an input's weight is in its vote here.
        given = [torch.from_numpy(tensor * np.float32(one)) for tensor, one in zip(tensors, weights, strict=True)]
        if method == "ties":
            merged = merge_utils.ties(given, torch.ones(3), 0.3)
        elif method == "dare_linear":
            merged = merge_utils.task_arithmetic(given, torch.ones(3))
        else:
            stacked = torch.stack(given)
            mask = merge_utils.calculate_majority_sign_mask(stacked)
            merged = merge_utils.disjoint_merge(stacked, mask)
        wanted[name] = cut(merged.double().numpy(), 20)
    assert distance(found, wanted) < 1e-5


def test_dare_is_seeded(loras: list[Path], tmp_path: Path) -> None:
    """The same seed, the same bytes of all layers; another, others."""
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        lorakit.merge(loras, tmp_path / f"{name}.safetensors", method="dare_linear", seed=seed)
        files.append(load_file(tmp_path / f"{name}.safetensors"))
    assert all(np.array_equal(files[0][name], files[1][name]) for name in files[0])
    assert any(not np.array_equal(files[0][name], files[2][name]) for name in files[0])


def test_dare_keeps_the_sum_on_average() -> None:
    """The share that is kept, divided by the density."""
    from lorakit.jobs.merge.ties import dropping

    values = dropping(0.25, 3, "x")(np.ones((400, 400), np.float32), 0)
    assert set(np.unique(values)) == {0.0, 4.0}
    assert abs(values.mean() - 1) < 0.02


def test_knots_merges_where_all_are_aligned(loras: list[Path], tmp_path: Path) -> None:
    """The factor form is the dense one: U·S of [ΔW₁ … ΔWₙ], and TIES on V₁ … Vₙ."""
    import torch
    from peft.utils import merge_utils

    rng = np.random.default_rng(0)
    parts = [Factors(rng.standard_normal((30, rank)), rng.standard_normal((rank, 25))) for rank in (4, 6)]
    common, rights = ties.aligned(parts)
    for part, right in zip(parts, rights, strict=True):
        assert np.allclose(common @ right, part.outer @ part.inner)
    dense = np.hstack([part.outer @ part.inner for part in parts])
    assert np.allclose(np.linalg.norm(common, axis=0), np.linalg.svd(dense, compute_uv=False)[:10])
    weights = (1.0, 0.5, 0.7)
    lorakit.merge(loras, tmp_path / "out.safetensors", weights=weights, method="knots", density=0.4, rank=16)
    found, inputs = deltas(tmp_path / "out.safetensors"), [deltas(path) for path in loras]
    wanted = {}
    for name in found:
        left, values, right = np.linalg.svd(np.hstack([one[name] for one in inputs]), full_matrices=False)
        pieces = np.split(right[:16], 3, axis=1)
        given = [torch.from_numpy(piece * one) for piece, one in zip(pieces, weights, strict=True)]
        merged = merge_utils.ties(given, torch.ones(3), 0.4)
        wanted[name] = (left[:, :16] * values[:16]) @ merged.numpy()
    assert distance(found, wanted) < 1e-5


def test_conventions_meet(tmp_path: Path) -> None:
    """The first one's names win, in both directions; what both have is one module."""
    from safetensors.torch import save_file as save_torch

    plain = tmp_path / "diffusers.safetensors"
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    tensors = real.lora_tensors(rank=4)
    save_torch(
        {
            f"unet.{key}".replace(".lora.down", ".lora_A").replace(".lora.up", ".lora_B"): values
            for key, values in tensors.items()
        },
        plain,
    )
    kohya_names = tuple(f"lora_unet_{name.replace('.', '_')}_{part}" for part in ("to_q", "to_out_0"))
    other = kohya(tmp_path / "kohya.safetensors", names=kohya_names, sides=(32, 32))
    for first, second, word in ((plain, other, "unet."), (other, plain, "lora_unet_")):
        lorakit.merge(
            [first, second], tmp_path / "out.safetensors", weights=(0.5, 0.25), dtype="float32", force=True
        )
        assert distance(
            deltas(tmp_path / "out.safetensors"), total([first, second], (0.5, 0.25))
        ) < 1e-6  # fmt: skip
        assert all(key.startswith(word) for key in load_file(tmp_path / "out.safetensors"))


@pytest.mark.parametrize("algorithm", ["loha", "lokr"])
def test_lycoris_files_merge_to_a_rank(tmp_path: Path, algorithm: str) -> None:
    """LoHa and LoKr with their ΔW; without a rank there is none that could be kept."""
    path = by_lycoris(tmp_path, algorithm)
    layers = load_file(path)
    copy = tmp_path / "copy.safetensors"
    save_file({name: values[::-1].copy() if values.ndim else values for name, values in layers.items()}, copy)
    lorakit.merge([path, copy], tmp_path / "out.safetensors", rank=5, dtype="float32")
    nearest = {name: cut(delta, 5) for name, delta in total([path, copy], (1, 1)).items()}
    assert distance(deltas(tmp_path / "out.safetensors"), nearest) < 1e-6
    with pytest.raises(UsageError, match="--rank"):
        lorakit.merge([path, copy], tmp_path / "more.safetensors")


def test_differences_and_biases_are_summed(tmp_path: Path) -> None:
    """Norms, whole differences and biases, by weight; a PEFT bias has the scale of its factors."""
    rng = np.random.default_rng(0)
    paths, layers = [], []
    for n in range(2):
        paths.append(kohya(tmp_path / f"{n}.safetensors", n))
        more = {
            "lora_unet_conv_norm_out.w_norm": rng.standard_normal(24).astype(np.float32),
            "lora_unet_conv_norm_out.b_norm": rng.standard_normal(24).astype(np.float32),
            "lora_unet_conv_out.diff": rng.standard_normal((4, 5)).astype(np.float32),
            f"{NAMES[0]}.diff_b": rng.standard_normal(24).astype(np.float32),
        }
        save_file(load_file(paths[-1]) | more, paths[-1])
        layers.append(more)
    lorakit.merge(paths, tmp_path / "out.safetensors", weights=(0.5, 2))
    after = load_file(tmp_path / "out.safetensors")
    for name, values in layers[0].items():
        assert np.allclose(after[name], 0.5 * values + 2 * layers[1][name], atol=1e-6)


def test_zero_modules_are_left_out_and_named(loras: list[Path], tmp_path: Path) -> None:
    """Those that cancel too, with the threshold; if all do, that is refused."""
    layers = load_file(loras[0])
    layers[f"{NAMES[0]}.lora_up.weight"][:] = 0
    save_file(layers, loras[0])
    found = lorakit.merge(loras[:1], tmp_path / "out.safetensors", weights=(2,))
    name = next(name for name in deltas(loras[0]) if name.endswith("attn1.to_q") and name.startswith("down"))
    assert name not in deltas(tmp_path / "out.safetensors")
    assert any(name in warning and "1e-06" in warning for warning in found["warnings"])
    twin = tmp_path / "twin.safetensors"
    layers = load_file(loras[1])
    for key in layers:
        if key.endswith("up.weight") and NAMES[1] not in key:
            layers[key] = -layers[key] * (1 + 1e-7)
    save_file(layers, twin)
    lorakit.merge([loras[1], twin], tmp_path / "half.safetensors")
    assert len(deltas(tmp_path / "half.safetensors")) == 1
    with pytest.raises(UsageError, match="cancel"):
        lorakit.merge([loras[1], loras[1]], tmp_path / "none.safetensors", weights=(1, -1))
    with pytest.raises(UsageError, match="cancel"):
        lorakit.merge(loras[:2], tmp_path / "none.safetensors", weights=(1, -1), normalize=True)
    assert not (tmp_path / "none.safetensors").exists()


def test_what_does_not_go_together_is_refused_by_name(loras: list[Path], tmp_path: Path) -> None:
    """Other base models, shapes, DoRA, NaN, numbers of weights; nothing is written."""
    out = tmp_path / "out.safetensors"
    other = tmp_path / "other.safetensors"
    flux = ("lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_single_blocks_3_linear1")
    layers = {
        f"{name}.lora_{role}.weight": np.ones(shape, np.float32)
        for name in flux
        for role, shape in (("down", (4, 20)), ("up", (24, 4)))
    }
    save_file(layers, other)
    for number in range(2):
        (tmp_path / f"adapter{number}").mkdir()
        os.link((loras[0], other)[number], tmp_path / f"adapter{number}" / "adapter_model.safetensors")
    with pytest.raises(UsageError, match=r"adapter0 \(sd15\), adapter1 \(flux\)"):
        lorakit.merge([tmp_path / "adapter0", tmp_path / "adapter1"], out)
    with pytest.raises(
        UsageError, match=r"different base models.*8.safetensors \(sd15\).*other.safetensors \(flux\)"
    ):
        lorakit.merge([loras[0], other], out)
    kohya(other, sides=(24, 21))
    with pytest.raises(UsageError, match=r"other.safetensors: module '.*_proj' is 24 × 21, and 24 × 20 in 8"):
        lorakit.merge([loras[0], other], out)
    save_file(load_file(loras[1]) | {f"{NAMES[1]}.dora_scale": np.ones((24, 1), np.float32)}, other)
    with pytest.raises(UsageError, match=r"other.safetensors: module '.*to_k' is DoRA"):
        lorakit.merge([loras[0], other], out)
    lorakit.merge([loras[0], other], tmp_path / "without.safetensors", exclude=[NAMES[1]])
    layers = load_file(loras[1])
    layers[f"{NAMES[3]}.lora_up.weight"][0, 0] = np.inf
    save_file(layers, other)
    for method in ("linear", "ties"):
        with pytest.raises(FileError, match=rf"other.safetensors: layer '{NAMES[3]}.lora_up.weight' holds 1 Inf"):
            lorakit.merge([loras[0], other], out, method=method)
    for options, word in (
        ({"weights": (1, 2)}, "2 weights for 3"), ({"weights": (1, 2, np.nan)}, "finite"),
        ({"rank": 17}, "more than 16"), ({"rank": 0}, "1 or more"), ({"method": "mean"}, "mean"),
        ({"method": "ties", "density": 0.0}, "density"), ({"weights": (0, 0, 0)}, "all weights are 0"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=word):
            lorakit.merge(loras, out, **options)
    assert not out.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_small_factors_of_a_huge_module_are_no_trap(tmp_path: Path) -> None:
    """What would form all of ΔW says so; what works by factors merges it."""
    layers = {
        "lora_unet_x.lora_up.weight": np.ones((20000, 1)),
        "lora_unet_x.lora_down.weight": np.ones((1, 20000)),
    }
    path = tmp_path / "huge.safetensors"
    save_file({name: values.astype(np.float32) for name, values in layers.items()}, path)
    for method in ("ties", "dare_linear"):
        with pytest.raises(UsageError, match="too large"):
            lorakit.merge([path, path], tmp_path / "out.safetensors", method=method)
    assert lorakit.merge([path, path], tmp_path / "out.safetensors", method="svd")["error"] < 1e-6


def test_a_check_tells_what_would_be_written(loras: list[Path], tmp_path: Path) -> None:
    told = lorakit.merge(loras, tmp_path / "out.safetensors", rank=4, check=True)
    assert not (tmp_path / "out.safetensors").exists()
    done = lorakit.merge(loras, tmp_path / "out.safetensors", rank=4)
    assert told["is_valid"]
    assert not told["written"]
    assert told["ranks"] == done["ranks"]
    assert [one["modules"] for one in told["inputs"]] == [7, 7, 7]
    wrong = lorakit.merge(loras, tmp_path / "more.safetensors", weights=(1,), check=True)
    assert (wrong["is_valid"], wrong["written"]) == (False, False)
    assert "1 weights for 3" in wrong["errors"][0]


def test_other_containers_and_dtypes(loras: list[Path], tmp_path: Path) -> None:
    wanted = total(loras, (1, 1, 1))
    lorakit.merge(loras, tmp_path / "out.pt", dtype="float16")
    assert distance(deltas(tmp_path / "out.pt"), wanted) < 1e-3
    with read_adapter(str(tmp_path / "out.pt")) as adapter:
        assert adapter.modules[0].dtypes == {"F16"}
