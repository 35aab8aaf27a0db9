"""`loractl importance`, `spectrum`, `pca` and `plot`: what they print and write, with no daemon at hand."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from safetensors.numpy import load_file, save_file

import lorakit
from loracore.errors import MissingPackage
from loracore.jobs.results import Table, from_rows
from loractl.view import exports
from loractl.view.tables import Column, fitting
from tests.builders.architectures import sd15
from tests.integration.scanning import loractl
from tests.toolkit.loras import trained


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return Path(os.fsdecode(trained(tmp_path / "a.safetensors", sd15(4, width=8, every=9))))


def told(*arguments: object, code: int = 0) -> Any:
    ended = loractl(*arguments, "--local")
    assert ended.returncode == code, ended.stderr
    return ended


def test_json_is_what_the_api_gives(lora: Path) -> None:
    """Sorted and cut as asked for; the blocks are those of the whole file."""
    found = json.loads(told("importance", lora, "--json", "--top", 3, "--sort", "dW.svd.nuclear_norm").stdout)
    whole = lorakit.importance(lora)
    rows = sorted(whole["modules"], key=lambda row: -row["dW.svd.nuclear_norm"])
    assert found == {**whole, "modules": rows[:3]}
    assert json.loads(told("spectrum", lora, "--json").stdout) == lorakit.spectrum(lora)
    pca = json.loads(told("pca", lora, "--components", 2, "--json").stdout)
    ours = lorakit.pca(lora, 2)
    assert (pca["success"], pca["n_components"], pca["total_layers"]) == (True, 2, len(ours["pca_results"]))
    for name, layer in ours["pca_results"].items():
        assert np.allclose(pca["pca_results"][name]["transformed_data"], layer["transformed_data"], atol=1e-5)


@pytest.mark.parametrize("command", ["importance", "spectrum", "pca"])
def test_exports_hold_the_table(lora: Path, tmp_path: Path, command: str) -> None:
    """Every suffix; CSV and Parquet agree to the last bit, and each replaces what was there."""
    for suffix in exports.SUFFIXES:
        (tmp_path / f"x{suffix}").write_text("before")
        assert "written" in told(command, lora, "-o", tmp_path / f"x{suffix}").stderr
    document = json.loads((tmp_path / "x.json").read_text())
    columns = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(columns)
    name = "layer" if command == "pca" else "module"
    listed = document["pca_results"] if command == "pca" else [row["module"] for row in document["modules"]]
    assert [row[name] for row in rows] == columns[name] == list(listed)
    for column, cells in columns.items():
        for row, cell in zip(rows, cells, strict=True):
            read = row[column] if isinstance(cell, str) else float(row[column]) if row[column] else None
            assert read == cell
    for suffix in (".txt", ".md"):
        text = (tmp_path / f"x{suffix}").read_text()
        assert all(str(entry).replace("_", r"\_" if suffix == ".md" else "_") in text for entry in columns[name])
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_people_see_some_columns_and_the_blocks(lora: Path) -> None:
    ended = told("importance", lora, "--top", 2, "--threshold", "0.5")
    lines = ended.stdout.splitlines()
    assert len(lines[0].split()) > 5
    assert "" in lines
    assert "of the importance" in ended.stderr
    assert len(told("spectrum", lora, "--top", 2, "--sort", "rank_95").stdout.splitlines()) == 2


def test_a_pipe_has_every_row(lora: Path) -> None:
    """What a program reads is not cut to a screen's length."""
    layers = lorakit.pca(lora)["pca_results"]
    assert len(layers) > 40
    assert len(told("pca", lora).stdout.splitlines()) == len(layers)
    assert len(told("spectrum", lora).stdout.splitlines()) == len(lorakit.spectrum(lora)["modules"])


def test_a_lora_that_changes_nothing_is_told_so(lora: Path) -> None:
    """As training begins: every `lora_up` is zero."""
    layers = load_file(lora)
    save_file({name: np.zeros_like(one) if "lora_up" in name else one for name, one in layers.items()}, lora)
    assert "not trained" in told("importance", lora).stderr


def test_a_narrow_terminal_leaves_columns_out_rather_than_cut_names_to_pieces() -> None:
    """The first columns stay, and a name has half of the width; where there is room for all, all are there."""
    columns = [Column("module", folds=True), *(Column(name, right=True) for name in ("rank", "l2", "energy_1"))]
    rows = [["x" * 60, "32", "31.18", "0.25"]]
    assert [fitting(columns, rows, width) for width in (10, 30, 44, 45, 200)] == [2, 3, 3, 4, 4]
    assert [fitting(columns, [["short", "32", "31.18", "0.25"]], width) for width in (28, 29)] == [3, 4]
    assert fitting(columns, [], 26) == 4


def test_faults_are_named_on_standard_error(lora: Path) -> None:
    layers = load_file(lora)
    up = next(name for name in layers if name.endswith("lora_up.weight"))
    layers[up][0, 0] = np.nan
    save_file(layers, lora)
    for command in ("importance", "spectrum", "pca"):
        assert "1 NaN" in told(command, lora).stderr


def test_a_file_of_which_nothing_can_be_analysed_is_told_so_by_module(lora: Path) -> None:
    """Every module is named with its reason; that there is no column to sort by is not the point."""
    layers = load_file(lora)
    save_file({name: np.full_like(values, np.nan) for name, values in layers.items() if "alpha" not in name}, lora)
    downs = sum("lora_down" in name for name in layers)
    for arguments in (("importance", lora), ("spectrum", lora, "--sort", "rank_95")):
        ended = told(*arguments, "--json")
        assert json.loads(ended.stdout)["modules"] == []
        assert ended.stderr.count("NaN") == min(downs, 20)


def test_what_cannot_be_written_names_the_file_that_was_asked_for(lora: Path, tmp_path: Path) -> None:
    """In one line, and where it can be told before, before anything is computed; no temporary file is left."""
    (tmp_path / "folder.json").mkdir()
    places = [tmp_path / "none" / "x.json", tmp_path / "x.json" / "y.json", Path("/proc/x.json")]
    for command in ("metadata", "importance", "spectrum", "pca"):
        for place in places:
            ended = told(command, lora, "-o", place, code=2)
            assert str(place) in ended.stderr
            assert len(ended.stderr.splitlines()) == 1
    assert "folder" in told("plot", "rank", lora, "-o", tmp_path / "none" / "x.png", code=2).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "folder.json"]


def test_pictures_are_written(lora: Path, tmp_path: Path) -> None:
    answer = json.loads(told("plot", "heatmap", lora, "-o", tmp_path / "x.svg", "--json").stdout)
    assert answer["bytes"] == (tmp_path / "x.svg").stat().st_size
    assert "written" in told("plot", "comparison", lora, lora, "-o", tmp_path / "x.png").stderr


def test_wrong_usage_ends_with_2_and_writes_nothing(lora: Path, tmp_path: Path) -> None:
    """In one line that says what to do."""
    for arguments, word in (
        (("importance", lora, "-o", tmp_path / "x.xls"), ".parquet"),
        (("importance", lora, "-o", tmp_path / "nowhere" / "x.csv"), "folder"),
        (("importance", lora, "--sort", "dW.l3"), "did you mean dW.l"),
        (("spectrum", lora, "--sort", "rank_50"), "rank_9"),
        (("plot", "heatmap", lora, "-o", tmp_path / "x.bmp"), ".svg"),
        (("plot", "comparison", lora, "-o", tmp_path / "x.png"), "2 to 6"),
        (("pca", tmp_path / "none.safetensors"), "none.safetensors"),
    ):
        ended = told(*arguments, code=2)
        assert word in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    told("importance", lora, "--threshold", "1.5", code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors"]


def test_parquet_without_pyarrow_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackage, match=r"lorad\[toolkit\]"):
        exports.check_output("x.parquet")


def test_tables_sort_by_number_and_by_text() -> None:
    """The greatest number first, texts by alphabet, what is not known last."""
    table = from_rows([{"a": "y", "b": 1}, {"a": "x", "b": None}, {"a": "z", "b": 3.5, "c": 1}])
    assert [row[0] for row in table.sorted("b").rows()] == ["z", "y", "x"]
    assert [row[0] for row in table.sorted("a").rows()] == ["x", "y", "z"]
    assert table.head(1).plain() == [{"a": "y", "b": 1, "c": None}]
    assert len(Table(())) == 0
