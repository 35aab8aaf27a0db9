"""`loractl compare`, `extract` and `report`: what they print and write, with no daemon at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

import lorakit
from tests.builders import models
from tests.integration.scanning import loractl


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file({name: 1.5 * layer for name, layer in models.matrices(base).items()}, tuned)
    return base, tuned


def told(*arguments: object, code: int = 0) -> Any:
    ended = loractl(*arguments, "--local")
    assert ended.returncode == code, ended.stderr
    return ended


def test_a_comparison_is_told_and_reported(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Tables for people, one object for programs, pictures as files."""
    out = tmp_path / "out"
    ended = told("compare", *pair, "-o", out, "--lora-rank", 4)
    assert "4 of 4 layers modified" in ended.stderr
    assert "a LoRA of 4 modules" in ended.stderr
    assert "model.layers.0.proj.weight" in ended.stdout
    assert "it is there already" in told("compare", *pair, "-o", out, code=2).stderr
    found = json.loads(told("compare", *pair, "-o", out, "--force", "--json").stdout)
    assert (found["modified"], found["written"], found["output"]) == (4, True, str(out))
    assert json.loads(told("report", out, "--json").stdout) == {**lorakit.report(out), "figures": []}
    ended = told("report", out, "-o", tmp_path / "all.svg")
    assert "model.layers.0.proj.weight" in ended.stdout
    assert (tmp_path / "all.svg").stat().st_size > 10_000
    told("report", out, "-o", tmp_path / "figures")
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".png"}


def test_an_extraction_is_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    ended = told("extract", *pair, "-o", tmp_path / "out", "--rank", 4, "--dtype", "float16")
    assert "rank 4, peft, float16: ‖X - BA‖ / ‖X‖ = 0." in ended.stderr
    found = json.loads(told("extract", *pair, "-o", tmp_path / "x", "--rank", 4, "--json", "--check").stdout)
    assert (found["is_valid"], found["written"], found["extraction"]) == (True, False, None)
    assert not (tmp_path / "x").exists()


def test_wrong_usage_ends_with_2_and_one_line(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments in (
        ("compare", pair[0], pair[0], "-o", out),
        ("compare", pair[0], tmp_path / "missing", "-o", out),
        ("extract", *pair, "-o", tmp_path / "a" / "b", "--rank", 4),
        ("report", tmp_path),
        ("report", tmp_path, "-o", "x.gif"),
    ):
        ended = told(*arguments, code=2)
        assert ended.stderr.count("\n") == 1
        assert ended.stderr.startswith("loractl: ")
    assert not out.exists()


def test_help_says_what_is_written() -> None:
    text = told("compare", "--help").stdout
    assert all(name in text for name in ("difference.txt", "lora_analysis.json", "--threshold", "--engine"))
