"""`importance`: the numbers are numpy's, done naively; blocks add up; bad modules are named (SPEC section 7)."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lorakit
from loracore.adapter import read_adapter
from loracore.errors import FileError, MissingPackage, UsageError
from loracore.jobs.importance import ImportanceParameters, ImportanceResult
from loracore.jobs.job import Alone, Cancelled
from lorakit.jobs.importance import JOB
from lorakit.statistics import Matrix, statistic
from lorakit.statistics.registry import forget
from tests.builders import real
from tests.builders.architectures import flux, sd15
from tests.toolkit.loras import Doubles, naive, trained

_PERCENTS = (1, 5, 25, 50, 75, 95, 99)


@pytest.fixture
def lora(tmp_path: Path) -> bytes:
    return trained(tmp_path / "a.safetensors", sd15(4, width=8, every=9))


def keys(path: bytes) -> dict[str, str]:
    """Canonical names to keys in the file."""
    with read_adapter(os.fsdecode(path)) as adapter:
        return {module.name: module.key for module in adapter.modules}


def rows(path: bytes, **options: Any) -> dict[str, dict[str, Any]]:
    return {row["module"]: row for row in lorakit.importance(path, **options)["modules"]}


def expected(matrix: Doubles) -> dict[str, float]:
    values = np.linalg.svd(matrix, compute_uv=False)
    shares = values / values.sum()
    shares = shares[shares > 1e-15]
    return {
        "min": matrix.min(), "max": matrix.max(), "mean": matrix.mean(), "std": matrix.std(),
        "positive": np.count_nonzero(matrix > 0), "negative": np.count_nonzero(matrix < 0),
        "zero": np.count_nonzero(matrix == 0), "positive_fraction": (matrix > 0).mean(),
        "l1": np.abs(matrix).sum(), "l2": np.linalg.norm(matrix), "linf": np.abs(matrix).max(),
        "svd.spectral_norm": values[0], "svd.nuclear_norm": values.sum(),
        "svd.energy_1": values[0] ** 2 / (values**2).sum(),
        "svd.energy_3": (values[:3] ** 2).sum() / (values**2).sum(),
        "svd.s2": values[1], "svd.effective_rank": np.exp(-(shares * np.log(shares)).sum()),
        "svd.stable_rank": (values**2).sum() / values[0] ** 2,
    }  # fmt: skip


def test_the_numbers_are_numpys(lora: bytes) -> None:
    """Of ΔW and both factors, of linear layers and convolutions; percentiles to 1e-3 standard deviations."""
    found, matrices, names = rows(lora), naive(lora), keys(lora)
    assert {names[name] for name in found} == set(matrices)
    for name, row in found.items():
        for part, matrix in zip(("dW", "A", "B"), matrices[names[name]], strict=True):
            std = matrix.std()
            for column, value in expected(matrix).items():
                assert row[f"{part}.{column}"] == pytest.approx(value, rel=2e-5, abs=1e-6 * std), (name, column)
            for percent, value in zip(_PERCENTS, np.percentile(matrix, _PERCENTS), strict=True):
                assert abs(row[f"{part}.p{percent}"] - value) < 1e-3 * std
            assert row[f"{part}.median"] == row[f"{part}.p50"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exact_percentiles_are_those_of_all_entries_sorted(lora: bytes, dtype: str) -> None:
    found, matrices, names = rows(lora, exact=True, dtype=dtype), naive(lora), keys(lora)
    precision = 1e-12 if dtype == "float64" else 1e-6
    for name, row in found.items():
        matrix = matrices[names[name]][0]
        for percent, value in zip(_PERCENTS, np.percentile(matrix, _PERCENTS), strict=True):
            assert abs(row[f"dW.p{percent}"] - value) < precision * matrix.std()


def test_columns_are_those_that_are_promised(lora: bytes) -> None:
    """By these names, for ΔW and the factors (SPEC section 7)."""
    table = JOB.run(ImportanceParameters(lora), Alone()).modules
    assert table.names[:2] == ("module", "block")
    own = ("min", "max", "mean", "std", "median", *(f"p{percent}" for percent in _PERCENTS), "l1", "l2", "linf")
    svd = ("spectral_norm", "nuclear_norm", *(f"energy_{k}" for k in range(1, 9)), "effective_rank", "stable_rank")
    for part in ("dW", "A", "B"):
        wanted = {f"{part}.{name}" for name in own} | {f"{part}.svd.{name}" for name in svd}
        assert wanted | {f"{part}.softmax_norm"} <= set(table.names)


def test_blocks_add_up_and_the_covering_set_is_the_smallest(lora: bytes) -> None:
    """Energies are shares of ‖ΔW‖² of the file; no smaller set of blocks holds the threshold."""
    found = JOB.run(ImportanceParameters(lora, threshold=0.8), Alone())
    squares = {key: float(np.linalg.norm(delta) ** 2) for key, (delta, _, _) in naive(lora).items()}
    total = sum(squares.values())
    names = keys(lora)
    modules = dict(zip(found.modules.column("module"), found.modules.column("block"), strict=True))
    for block in found.blocks:
        own = sum(squares[names[str(name)]] for name, of in modules.items() if of == block.block)
        assert block.energy == pytest.approx(own / total, rel=1e-6)
        assert block.covering == (block.block in found.covering)
    shares = {block.block: block.energy for block in found.blocks}
    assert sum(shares.values()) == pytest.approx(1)
    assert found.covered == pytest.approx(sum(shares[name] for name in found.covering))
    assert found.covered >= 0.8
    smaller = itertools.combinations(shares, len(found.covering) - 1)
    assert max(sum(shares[name] for name in names) for names in smaller) < 0.8


def test_softmax_is_over_the_spectral_norms_of_all_modules(lora: bytes) -> None:
    found = list(rows(lora).values())
    for part in ("dW", "A", "B"):
        weights = np.exp([row[f"{part}.svd.spectral_norm"] for row in found])
        assert [row[f"{part}.softmax_norm"] for row in found] == pytest.approx(weights / weights.sum())
    blocks = lorakit.importance(lora, by="softmax", threshold=0.5)["blocks"]
    assert sum(block["softmax"] for block in blocks) == pytest.approx(1)
    assert blocks == sorted(blocks, key=lambda block: -block["softmax"])


def test_a_decorated_function_is_a_column(lora: bytes) -> None:
    """For one matrix by its prefix, else for all three; what is not finite is not known; names are taken once."""

    @statistic("dW.rows")
    def _rows(matrix: Matrix) -> int:
        return sum(len(block) for block in matrix.blocks())

    @statistic("odd")
    def _odd(matrix: Matrix) -> dict[str, float]:
        return {"odd.nan": float("nan"), "odd.root": matrix.frobenius**0.5}

    try:
        with pytest.raises(UsageError, match=r"dW\.rows"):
            statistic("dW.rows")(_rows)
        row = next(iter(rows(lora).values()))
    finally:
        forget("dW.rows")
        forget("odd")
    assert row["dW.rows"] == int(row["shape"].split("x")[0])
    assert "A.rows" not in row
    assert row["B.odd.nan"] is None
    assert row["A.odd.root"] == pytest.approx(row["A.l2"] ** 0.5)


def test_cost_is_bounded_by_options(lora: bytes) -> None:
    """What was left out is not known, and the rest is as before."""
    plain, without = rows(lora), rows(lora, svd=False, percentiles=False)
    limited = rows(lora, svd_limit=3)
    for name, row in plain.items():
        assert without[name]["dW.l1"] == row["dW.l1"]
        assert without[name]["dW.svd.spectral_norm"] is without[name]["dW.p50"] is None
        assert limited[name]["dW.svd.spectral_norm"] is None
        assert limited[name]["dW.p50"] == row["dW.p50"]
    assert rows(lora, singular_values=2).keys() == plain.keys()
    assert "dW.svd.s3" not in next(iter(rows(lora, singular_values=2).values()))


def test_threads_change_nothing(lora: bytes) -> None:
    one, four = (JOB.run(ImportanceParameters(lora), Alone(count)) for count in (1, 4))
    assert msgspec.msgpack.encode(one) == msgspec.msgpack.encode(four)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=ImportanceResult) == one


def test_zero_and_constant_matrices_have_numbers(tmp_path: Path) -> None:
    """A LoRA before its training, and one whose factors are constant."""
    lora = trained(tmp_path / "a.safetensors", flux(4, width=64, every=60))
    layers = load_file(lora.decode())
    for index, name in enumerate(name for name in layers if "lora_up" in name):
        layers[name] = np.zeros_like(layers[name]) if index % 2 else np.ones_like(layers[name])
        down = name.replace("up", "down")
        layers[down] = layers[down] if index % 2 else np.ones_like(layers[down])
    save_file(layers, lora.decode())
    found = list(rows(lora).values())
    zero = [row for row in found if row["dW.l2"] == 0]
    constant = [row for row in found if row["dW.l2"] > 0]
    assert zero
    assert constant
    for row in zero:
        assert (row["dW.zero_fraction"], row["dW.p99"], row["dW.svd.effective_rank"]) == (1, 0, 0)
    for row in constant:
        assert row["dW.std"] == 0
        assert row["dW.p1"] == row["dW.p99"] == row["dW.max"]
        assert row["dW.svd.effective_rank"] == pytest.approx(1, abs=1e-6)


def test_modules_that_cannot_be_analysed_are_named_and_the_rest_is_there(lora: bytes) -> None:
    """NaN, Inf and a missing half: one line each."""
    layers = load_file(lora.decode())
    ups = [name for name in layers if name.endswith("lora_up.weight")]
    layers[ups[0]][0] = np.nan
    layers[ups[1]][1, 0] = np.inf
    del layers[ups[2]]
    save_file(layers, lora.decode())
    found = JOB.run(ImportanceParameters(lora), Alone(2))
    assert len(found.modules) == len(ups) - 3
    reasons = " | ".join(fault.reason for fault in found.faults)
    assert len(found.faults) == 3
    assert "B holds" in reasons
    assert "1 Inf" in reasons
    assert sum(block.energy for block in found.blocks) == pytest.approx(1)


def test_algorithms_without_factors_have_delta_alone(tmp_path: Path) -> None:
    """LoHa and LoKr as LyCORIS writes them: ΔW's numbers are numpy's of what the adapter gives."""
    for path in real.by_lycoris(str(tmp_path)):
        found = rows(path.encode())
        with read_adapter(path) as adapter:
            for module in adapter.modules:
                delta = module.delta(np.float64)
                delta = delta.reshape(len(delta), -1)
                row = found[module.name]
                values = np.linalg.svd(delta, compute_uv=False)
                assert row["dW.l2"] == pytest.approx(np.linalg.norm(delta), rel=1e-5)
                assert row["dW.svd.nuclear_norm"] == pytest.approx(values.sum(), rel=1e-4)
                assert row["dW.max"] == pytest.approx(delta.max(), rel=1e-4)


def test_the_gpus_way_gives_the_same_numbers(lora: bytes) -> None:
    """Run by torch on the CPU, which has the same operations."""
    from lorakit.modules.matrices import matrices
    from lorakit.statistics.devices import by_torch
    from lorakit.statistics.matrix import Bounds
    from lorakit.statistics.scan import Workspace

    with read_adapter(os.fsdecode(lora)) as adapter:
        for module in adapter.modules:
            ours = matrices(module, Bounds(), Workspace())["dW"]
            theirs = matrices(module, Bounds(device=by_torch("cpu")), Workspace())["dW"]
            assert theirs.scan.minimum == pytest.approx(ours.scan.minimum, rel=1e-5)
            assert theirs.scan.absolute_sum == pytest.approx(ours.scan.absolute_sum, rel=1e-5)
            assert (theirs.scan.positive, theirs.scan.negative) == (ours.scan.positive, ours.scan.negative)
            assert theirs.percentiles == pytest.approx(ours.percentiles, abs=1e-3 * ours.std)


def test_wrong_wishes_are_refused_in_one_line(lora: bytes, tmp_path: Path) -> None:
    for options in (
        {"threshold": 0.0},
        {"threshold": 1.5},
        {"singular_values": 0},
        {"by": "softmax", "svd": False},
    ):
        with pytest.raises(UsageError) as caught:
            lorakit.importance(lora, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises((UsageError, MissingPackage), match="cuda"):
        lorakit.importance(lora, device="cuda")
    (tmp_path / "text.safetensors").write_text("no LoRA")
    for name in ("text.safetensors", "missing.safetensors"):
        with pytest.raises(FileError, match=name):
            lorakit.importance(tmp_path / name)
    save_file({"model.weight": np.zeros((3, 3), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(FileError, match=r"model\.safetensors.*LoRA"):
        lorakit.importance(tmp_path / "model.safetensors")


def test_it_ends_when_it_is_told_to(lora: bytes) -> None:
    """Progress grows to its total; what it raises ends the job."""
    told: list[tuple[float, float]] = []
    JOB.run(ImportanceParameters(lora), Alone(2, lambda done, total, _: told.append((done, total))))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]

    def cancel(done: float, total: float, what: str) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        JOB.run(ImportanceParameters(lora), Alone(2, cancel))
