"""`compare`: the numbers are torch's; one bad layer is named; a killed run goes on (SPEC section 8)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

import lorakit
from loracore.errors import FileError, UsageError
from loracore.jobs.change import Writing
from loracore.jobs.compare import CompareParameters
from loracore.jobs.job import Alone, Cancelled
from lorakit.difference import journal
from lorakit.jobs.compare.job import JOB
from tests.builders import models

FILES = (
    "difference.txt", "weight_differences.json", "config_comparison.json", "architecture_comparison.json",
    "lora_analysis.json", "comparison_report.txt",
)  # fmt: skip


def folder_of(path: Path) -> dict[str, Any]:
    """All layers of a folder, by torch."""
    return {name: layer for file in sorted(path.glob("*.safetensors")) for name, layer in load_torch(file).items()}


def naive(base: torch.Tensor, finetuned: torch.Tensor, threshold: float = 1e-6) -> dict[str, float]:
    first, second = base.double(), finetuned.double()
    measure = (second - first).abs()
    return {
        "mean_abs_diff": measure.mean().item(),
        "max_abs_diff": measure.max().item(),
        "relative_diff": ((second - first).norm() / first.norm()).item(),
        "changed_ratio": (measure > threshold).double().mean().item(),
    }


def document(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def pair(folder: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Two plain files of four matrices; the second one is returned as well."""
    base, tuned = folder / "base.safetensors", folder / "tuned.safetensors"
    layers = models.matrices(base)
    rng = np.random.default_rng(9)
    changed = {name: layer + 1e-3 * rng.standard_normal(layer.shape, np.float32) for name, layer in layers.items()}
    save_file(changed, tuned)
    return base, tuned, changed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_numbers_are_torchs(tmp_path: Path, dtype: str) -> None:
    """Of sharded folders as `save_pretrained` writes them, cut differently; all files have the promised fields."""
    base = models.saved(models.llama(dtype=dtype), tmp_path / "base", shard="60KB")
    tuned = models.merged(models.llama(dtype=dtype), tmp_path / "tuned", shard="150KB")
    assert len(list(base.glob("*.safetensors"))) > len(list(tuned.glob("*.safetensors"))) > 1
    found = lorakit.compare(base, tuned, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted(FILES)
    first, second = folder_of(base), folder_of(tuned)
    written = document(tmp_path / "out", "weight_differences.json")
    assert list(written) == ["modified_layers", "all_differences", "performance"]
    assert list(written["performance"]) == ["total_time", "avg_layer_time", "max_layer_time", "layer_times"]
    assert written["all_differences"].keys() == first.keys() == written["performance"]["layer_times"].keys()
    for name, row in written["all_differences"].items():
        assert row.keys() == {"mean_abs_diff", "max_abs_diff", "relative_diff", "changed_ratio", "shape"}
        assert row["shape"] == list(first[name].shape)
        for field, value in naive(first[name], second[name]).items():
            assert row[field] == pytest.approx(value, rel=1e-5, abs=1e-12), (name, field)
    changed = {name for name, row in written["all_differences"].items() if row["changed_ratio"] > 0}
    assert set(written["modified_layers"]) == changed
    assert {name.split(".")[-2] for name in changed} == set(models.TARGETS)
    assert found["modified"] == len(changed)
    assert (found["layers"], found["faults"]) == (len(first), [])


@pytest.mark.parametrize(
    "dtypes", [("F16", "F16"), ("BF16", "F32"), ("F8_E4M3", "F16"), ("F64", "F32"), ("I8", "I8")]
)
def test_layers_of_all_dtypes_are_compared(tmp_path: Path, dtypes: tuple[str, str]) -> None:
    """Also of two dtypes, with subnormal numbers, and with a length that no block divides."""
    kinds = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
             "F8_E4M3": torch.float8_e4m3fn, "I8": torch.int8}  # fmt: skip
    torch.manual_seed(1)
    values = torch.randn(3, 70_001) * (50 if "I8" in dtypes else 0.02)
    values[0, :9] = 1e-7
    first, second = values.to(kinds[dtypes[0]]), (1.01 * values).to(kinds[dtypes[1]])
    save_torch({"a.weight": first}, tmp_path / "base.safetensors")
    save_torch({"a.weight": second}, tmp_path / "tuned.safetensors")
    for engine in ("numpy", "torch"):
        lorakit.compare(
            tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / engine, engine=engine
        )
        row = document(tmp_path / engine, "weight_differences.json")["all_differences"]["a.weight"]
        for field, value in naive(first, second).items():
            assert row[field] == pytest.approx(value, rel=2e-5, abs=1e-9), (engine, field)


def test_the_listing_has_a_block_for_each_layer(tmp_path: Path) -> None:
    """Header, blocks with both engines' times, and a summary with the most modified layers."""
    base, tuned, layers = pair(tmp_path)
    found = lorakit.compare(base, tuned, tmp_path / "out", engine="both", threshold=1e-3)
    assert found["disagreement"] < 1e-5
    text = (tmp_path / "out" / "difference.txt").read_text()
    head, blocks, summary = re.split(r"\n(?=\[1\])|\n=+\nSummary\n=+\n", text)
    for word in (str(base), str(tuned), "0.001", "4"):
        assert word in head
    assert re.findall(r"\[\d+\] (.+)", blocks) == list(layers)
    for word in ("Shape", "Total time", "Torch time", "NumPy time", "Speed-up", "Mean abs diff", "Max abs diff",
                 "Relative diff", "Changed ratio"):  # fmt: skip
        assert len(re.findall(rf"  {word}: +\S", blocks)) == 4
    assert "–" not in blocks
    for word in ("Total time", "Average", "Slowest", "Layers processed:  4", "Layers modified:   4"):
        assert word in summary
    ranking = document(tmp_path / "out", "weight_differences.json")["modified_layers"]
    assert re.findall(r"\d+\. .*  (\S+)$", summary, re.M) == ranking
    report = (tmp_path / "out" / "comparison_report.txt").read_text()
    assert "Layers modified: 4 of 4" in report


def test_bad_layers_are_named_and_the_rest_is_compared(tmp_path: Path) -> None:
    """NaN, Inf, another shape, one that is missing, a dtype without values: in the result and in the reports."""
    layers = {f"l{index}.weight": torch.randn(40, 40) for index in range(8)}
    save_torch({**layers, "odd.weight": torch.zeros(4, 4, dtype=torch.complex64)}, tmp_path / "base.safetensors")
    tuned = {name: layer + 0.01 for name, layer in layers.items()}
    tuned["l1.weight"][3, 3] = torch.nan
    tuned["l2.weight"][5, 5] = torch.inf
    tuned["l3.weight"] = torch.zeros(40, 39)
    del tuned["l4.weight"]
    tuned["new.weight"] = torch.zeros(3)
    tuned["odd.weight"] = torch.ones(4, 4, dtype=torch.complex64)
    save_torch(tuned, tmp_path / "tuned.safetensors")
    found = lorakit.compare(tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "out")
    faults = {fault["module"]: fault["reason"] for fault in found["faults"]}
    assert set(faults) == {"l1.weight", "l2.weight", "l3.weight", "l4.weight", "new.weight", "odd.weight"}
    assert "NaN in the fine-tuned model" in faults["l1.weight"]
    assert "Inf" in faults["l2.weight"]
    assert "[40, 39]" in faults["l3.weight"]
    assert "C64" in faults["odd.weight"]
    written = document(tmp_path / "out", "weight_differences.json")
    assert set(written["modified_layers"]) == {"l0.weight", "l5.weight", "l6.weight", "l7.weight"}
    shapes = document(tmp_path / "out", "architecture_comparison.json")
    assert shapes["shape_mismatches"] == {"l3.weight": {"base": [40, 40], "finetuned": [40, 39]}}
    assert (shapes["only_in_base"], shapes["only_in_finetuned"]) == (["l4.weight"], ["new.weight"])
    assert all(name in (tmp_path / "out" / "difference.txt").read_text() for name in faults)


def test_settings_that_differ_are_told(tmp_path: Path) -> None:
    base = models.saved(models.llama(), tmp_path / "base")
    tuned = models.merged(models.llama(), tmp_path / "tuned")
    config = json.loads((tuned / "config.json").read_text())
    config["rms_norm_eps"] = 0.5
    config["extra"] = {"deep": [1]}
    (tuned / "config.json").write_text(json.dumps(config))
    lorakit.compare(base, tuned, tmp_path / "out")
    found = document(tmp_path / "out", "config_comparison.json")
    assert not found["identical"]
    assert found["files"]["config.json"]["changed"]["rms_norm_eps"]["finetuned"] == 0.5
    assert found["files"]["config.json"]["only_in_finetuned"] == {"extra.deep": [1]}
    assert document(tmp_path / "out", "architecture_comparison.json")["identical"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_lora_is_recognised(tmp_path: Path, dtype: str) -> None:
    """Its rank, its modules, also under the rounding of bfloat16; matrices that changed freely are no LoRA."""
    base = models.saved(models.llama(dtype=dtype), tmp_path / "base")
    tuned = models.merged(models.llama(dtype=dtype), tmp_path / "tuned", rank=4)
    found = lorakit.compare(base, tuned, tmp_path / "out")
    assert (found["looks_like_lora"], found["suggested_rank"]) == (True, 4)
    assert set(found["target_modules"]) == set(models.TARGETS)
    layers = document(tmp_path / "out", "lora_analysis.json")["layers"]
    for one in layers.values():
        assert one["signal_rank"] == 4
        assert one["energies"]["4"] > 0.999
        assert 1 < one["effective_rank"] <= 4
    base, tuned, _ = pair(tmp_path)
    found = lorakit.compare(base, tuned, tmp_path / "free")
    assert not found["looks_like_lora"]
    lorakit.compare(base, tuned, tmp_path / "without", lora_analysis=False)
    assert "lora_analysis.json" not in os.listdir(tmp_path / "without")


def test_numbers_too_large_to_be_squared_are_compared(tmp_path: Path) -> None:
    """In single precision they would be infinite; only their spectrum is left out, which is said."""
    base = torch.randn(200, 200) * 1e30
    save_torch({"a.weight": base}, tmp_path / "base.safetensors")
    save_torch({"a.weight": -base}, tmp_path / "tuned.safetensors")
    lorakit.compare(tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "out")
    row = document(tmp_path / "out", "weight_differences.json")["all_differences"]["a.weight"]
    assert row["relative_diff"] == pytest.approx(2)
    assert row["max_abs_diff"] == pytest.approx(2 * base.abs().max().item())
    found = document(tmp_path / "out", "lora_analysis.json")
    assert "too large" in found["other_changes"]["a.weight"]


def test_rounding_alone_is_named(tmp_path: Path) -> None:
    """Entries of bfloat16 that moved by one place, here and there."""
    torch.manual_seed(3)
    base = torch.randn(300, 300).mul(0.02).bfloat16()
    moved = torch.where(torch.rand(300, 300) < 0.1, (base.float() * (1 + 2**-7)).bfloat16(), base)
    save_torch({"a.weight": base}, tmp_path / "base.safetensors")
    save_torch({"a.weight": moved}, tmp_path / "tuned.safetensors")
    lorakit.compare(tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "out")
    assert document(tmp_path / "out", "lora_analysis.json")["only_rounding"] == ["a.weight"]


def test_equal_models_have_no_difference(tmp_path: Path) -> None:
    """And their blocks are not turned into numbers: NaN that is the same in both is no difference."""
    layers = models.matrices(tmp_path / "base.safetensors")
    layers["model.layers.0.proj.weight"][0, 0] = np.nan
    save_file(layers, tmp_path / "base.safetensors")
    save_file(layers, tmp_path / "tuned.safetensors")
    found = lorakit.compare(tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "out")
    assert (found["modified"], found["layers"], found["faults"]) == (0, 4, [])


def test_names_behind_a_wrapper_are_paired(tmp_path: Path) -> None:
    """A model that was saved with a head, or compiled, has a word before each name."""
    base, _, changed = pair(tmp_path)
    save_file({f"_orig_mod.{name}": layer for name, layer in changed.items()}, tmp_path / "tuned.safetensors")
    found = lorakit.compare(base, tmp_path / "tuned.safetensors", tmp_path / "out")
    assert found["modified"] == 4
    assert any("_orig_mod." in warning for warning in found["warnings"])


def test_torch_checkpoints_are_read(tmp_path: Path) -> None:
    """Sharded .bin folders with their index, and views that do not lie in order."""
    _, _, changed = pair(tmp_path)
    base = load_file(tmp_path / "base.safetensors")
    folder = tmp_path / "binary"
    folder.mkdir()
    names = list(changed)
    shards = {"pytorch_model-00001-of-00002.bin": names[:2], "pytorch_model-00002-of-00002.bin": names[2:]}
    for file, own in shards.items():
        torch.save({name: torch.from_numpy(changed[name].T.copy()).T for name in own}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, own in shards.items() for name in own}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    lorakit.compare(tmp_path / "base.safetensors", folder, tmp_path / "out")
    rows = document(tmp_path / "out", "weight_differences.json")["all_differences"]
    for name, row in rows.items():
        wanted = naive(torch.from_numpy(base[name]), torch.from_numpy(changed[name]))
        assert row["mean_abs_diff"] == pytest.approx(wanted["mean_abs_diff"], rel=1e-5)


def test_threads_and_parts_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is cut into parts, of which one is equal and one differs, has the numbers of the whole."""
    from lorakit.difference import measure, walk

    base, tuned, changed = pair(tmp_path)
    layers = load_file(base)
    name = "model.layers.0.proj.weight"
    changed[name] = layers[name].copy()
    changed[name][-1] += 1
    save_file(changed, tuned)
    whole = lorakit.compare(base, tuned, tmp_path / "whole")
    monkeypatch.setattr(measure, "BLOCK", 1024)
    monkeypatch.setattr(walk, "_PART", 2048)
    cut = JOB.run(
        CompareParameters(os.fsencode(base), os.fsencode(tuned), Writing(os.fsencode(tmp_path / "cut"))), Alone(3)
    )
    assert [one.layer for one in cut.most_modified] == [one["layer"] for one in whole["most_modified"]]
    for one, other in zip(cut.most_modified, whole["most_modified"], strict=True):
        assert one.relative_diff == pytest.approx(other["relative_diff"], rel=1e-5)
        assert one.changed_ratio == other["changed_ratio"]


_CHILD = """
import os, sys
from loracore.jobs.change import Writing
from loracore.jobs.compare import CompareParameters
from loracore.jobs.job import Alone
from lorakit.jobs.compare import job as compare
def told(done, total, what):
    if done > total / 2:
        print("half", flush=True)
        sys.stdin.read()
base, tuned, out = map(os.fsencode, sys.argv[1:])
compare.run(CompareParameters(base, tuned, Writing(out), lora_rank=3), Alone(1, told))
"""


def timeless(folder: Path) -> dict[str, Any]:
    """What a folder holds, but for times."""
    found: dict[str, Any] = {}
    for name in FILES:
        text = (folder / name).read_text().replace(str(folder), "OUT")
        if name.endswith(".txt"):
            found[name] = [line for line in text.splitlines() if not re.search(r"[Tt]ime:|a layer:|Slowest", line)]
        else:
            found[name] = json.loads(text)
            found[name].pop("performance", None)
            found[name].pop("seconds", None)
    weights = load_file(folder / "extracted_lora_weights.safetensors")
    return found | {name: layer.tobytes() for name, layer in weights.items()}


def test_a_killed_run_goes_on_and_gives_the_same_files(tmp_path: Path) -> None:
    """SIGKILL half way: no report is there, the finished layers are kept, and the end is that of one run."""
    base, tuned, _ = pair(tmp_path)
    whole = tmp_path / "whole"
    lorakit.compare(base, tuned, whole, lora_rank=3)
    out = tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, base, tuned, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"half\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert set(os.listdir(out)) == {journal.NAME.decode(), journal.DATA.decode()}
    with pytest.raises(FileError, match="not finished"):
        lorakit.report(out)
    # A line that was being written is no line.
    with (out / journal.NAME.decode()).open("ab") as file:
        file.write(b'{"name":"model.layers.3')
    found = lorakit.compare(base, tuned, out, lora_rank=3)
    assert 0 < found["resumed"] <= 4
    assert timeless(out) == timeless(whole)
    assert not [name for name in os.listdir(out) if name.startswith(".")]


def test_another_question_or_a_changed_file_does_not_go_on(tmp_path: Path) -> None:
    """Other parameters need --force; where a model changed since, finished layers are worth nothing."""
    base, tuned, changed = pair(tmp_path)

    class Stopped(Alone):
        def progress(self, done: float, total: float, what: str = "") -> None:
            if done > total / 3:
                raise Cancelled("enough")

    out = tmp_path / "out"
    with pytest.raises(Cancelled):
        JOB.run(CompareParameters(os.fsencode(base), os.fsencode(tuned), Writing(os.fsencode(out))), Stopped(1))
    assert (out / journal.NAME.decode()).stat().st_size > 0
    with pytest.raises(UsageError, match="--force"):
        lorakit.compare(base, tuned, out, threshold=0.5)
    save_file({name: 2 * layer for name, layer in changed.items()}, tuned)
    found = lorakit.compare(base, tuned, out)
    assert found["resumed"] == 0
    assert any("starts anew" in warning for warning in found["warnings"])
    with pytest.raises(UsageError, match="--force"):
        lorakit.compare(base, tuned, out)
    assert lorakit.compare(base, tuned, out, force=True)["written"]


def test_wrong_wishes_are_refused_in_one_line_and_write_nothing(tmp_path: Path) -> None:
    base, tuned, changed = pair(tmp_path)
    other = tmp_path / "other.safetensors"
    save_file({"x.weight": np.ones((3, 3), np.float32)}, other)
    (tmp_path / "empty").mkdir()
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(tuned.read_bytes()[:-100])
    link = tmp_path / "link.safetensors"
    link.symlink_to(base)
    out = tmp_path / "out"
    for first, second, options, word in (
        (base, base, {}, "given twice"),
        (base, link, {}, "given twice"),
        (base, other, {}, "different architectures"),
        (base, tmp_path / "missing", {}, "not there"),
        (base, tmp_path / "empty", {}, "without weights"),
        (base, truncated, {}, "truncated"),
        (base, tuned, {"threshold": -1.0}, "threshold"),
        (base, tuned, {"threshold": float("nan")}, "threshold"),
        (base, tuned, {"lora_rank": 0}, "rank"),
        (base, tuned, {"engine": "guess"}, "engine"),
    ):
        with pytest.raises((UsageError, FileError), match=word) as error:
            lorakit.compare(first, second, out, **options)
        assert "\n" not in str(error.value)
        assert not out.exists()
    with pytest.raises(UsageError, match="no folder"):
        lorakit.compare(base, tuned, tmp_path / "a" / "b")
    (tmp_path / "model").mkdir()
    save_file(changed, tmp_path / "model" / "model.safetensors")
    with pytest.raises(UsageError, match="model's folder"):
        lorakit.compare(base, tmp_path / "model", tmp_path / "model" / "out", force=True)
    found = lorakit.compare(base, tuned, out, check=True)
    assert (found["is_valid"], found["written"], found["layers"]) == (True, False, 4)
    assert not out.exists()


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """256 MB in both models, among them a layer of 64 MB each, in less than 100 MB over the imports."""
    big = torch.randn(16, 1 << 20).half()
    for name, factor in (("base", 1.0), ("tuned", 1.1)):
        layers = {"big.bias": big * factor, **{f"l{index}.bias": big[:4] * factor for index in range(6)}}
        save_torch(layers, tmp_path / f"{name}.safetensors")
    child = (
        "import os, sys, resource, numpy\n"
        "from loracore.jobs.change import Writing; from loracore.jobs.compare import CompareParameters\n"
        "from loracore.jobs.job import Alone; from lorakit.jobs.compare import job as compare\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "base, tuned, out = map(os.fsencode, sys.argv[1:])\n"
        "compare.run(CompareParameters(base, tuned, Writing(out)), Alone(2))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)\n"
    )
    paths = [tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "out"]
    ended = subprocess.run([sys.executable, "-c", child, *paths], check=True, stdout=subprocess.PIPE, text=True)
    assert int(ended.stdout) < 100


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """And what is there is whole: a limit on the size of files stands for the disk."""
    base, tuned, _ = pair(tmp_path)
    child = (
        "import os, sys, resource, signal\n"
        "import lorakit\nfrom loracore.errors import LoraError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "try: lorakit.compare(*sys.argv[1:])\n"
        "except LoraError as error: print(error)\n"
    )
    out = tmp_path / "out"
    ended = subprocess.run(
        [sys.executable, "-c", child, base, tuned, out], check=True, stdout=subprocess.PIPE, text=True
    )
    assert "cannot be written" in ended.stdout
    assert ended.stdout.count("\n") == 1
    assert not [name for name in os.listdir(out) if not name.startswith(".comparison")]
    assert lorakit.compare(base, tuned, out)["written"]


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    base, tuned, _ = pair(tmp_path)
    process = psutil.Process()
    before = process.num_fds()
    lorakit.compare(base, tuned, tmp_path / "out")
    with pytest.raises(FileError):
        lorakit.compare(base, tmp_path / "missing", tmp_path / "x")
    assert process.num_fds() == before
