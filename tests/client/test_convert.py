"""`loractl convert` and `loractl bake`: what they write, print and refuse, with no daemon at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.builders.architectures import LayerSpec, llm, sd15
from tests.builders.weights import Layer, random_weights
from tests.builders.write import write_peft_folder, write_safetensors
from tests.integration.scanning import loractl
from tests.toolkit.loras import trained


def told(*arguments: object, code: int = 0) -> Any:
    ended = loractl(*arguments, "--local")
    assert ended.returncode == code, ended.stderr
    return ended


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return Path(os.fsdecode(trained(tmp_path / "a.safetensors", sd15(4, width=8, every=9))))


def test_a_round_trip_on_the_command_line(lora: Path, tmp_path: Path) -> None:
    """A table for people, fields for programs; the factors come back to the last bit."""
    ended = told("convert", lora, "--to", "peft", "-o", tmp_path / "peft")
    assert "unet" in ended.stdout
    assert "written" in ended.stdout
    answer = json.loads(
        told("convert", tmp_path / "peft", "--to", "diffusers", "-o", tmp_path / "d.safetensors", "--json").stdout
    )
    assert (answer["operation"], answer["is_valid"], answer["written"]) == ("convert", True, True)
    assert answer["outputs"][0]["bytes"] == (tmp_path / "d.safetensors").stat().st_size
    assert {each["convention"] for each in answer["inputs"]} == {"peft"}
    told("convert", tmp_path / "d.safetensors", "--to", "kohya", "-o", tmp_path / "b.safetensors")
    before, after = load_file(lora), load_file(tmp_path / "b.safetensors")
    assert before.keys() == after.keys()
    assert all((after[name] == values).all() for name, values in before.items())


def test_a_check_writes_nothing(lora: Path, tmp_path: Path) -> None:
    """Nor does wrong usage: one line that says what to do, and 2."""
    answer = json.loads(told("convert", lora, "--to", "peft", "-o", tmp_path / "x", "--check", "--json").stdout)
    assert (answer["is_valid"], answer["written"]) == (True, False)
    assert {each["bytes"] for each in answer["outputs"]} == {None}
    ended = told("convert", lora, "-o", tmp_path / "x.txt", "--check", code=2)
    assert "no container" in ended.stderr
    for arguments, word in (
        (("-o", lora, "--force"), "it is read for this"), (("-o", tmp_path / "x.gguf"), "no container"),
        (("-o", tmp_path / "none" / "x.safetensors"), "make that folder first"),
    ):  # fmt: skip
        ended = told("convert", lora, *arguments, code=2)
        assert word in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    told("convert", lora, "--to", "comfy", "-o", tmp_path / "x", code=2)
    ended = told("convert", lora, "--device", "cuda", "-o", tmp_path / "x.safetensors", code=2)
    assert "take --device cpu" in ended.stderr
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_bake_on_the_command_line(tmp_path: Path) -> None:
    """Into one file, with weights; a base that lacks modules is refused, and the rest merged when told."""
    specs = llm(2, width=64, blocks=2)
    write_peft_folder(str(tmp_path / "adapter"), random_weights(specs, 1), rank=2, targets=["q_proj"])
    shapes = {spec.name: spec.shape for spec in specs}
    base: dict[str, Layer] = {}
    for name, shape in shapes.items():
        if name.endswith("lora_B.weight"):
            inner = name.removeprefix("base_model.model.").replace("lora_B.", "")
            inputs = shapes[name.replace("lora_B", "lora_A")][1]
            base |= random_weights([LayerSpec(inner, "F16", (shape[0], inputs))], 2)
    write_safetensors(str(tmp_path / "base.safetensors"), base)
    arguments = ("bake", tmp_path / "adapter", "--base", tmp_path / "base.safetensors", "-o")
    answer = json.loads(told(*arguments, tmp_path / "out.safetensors", "--weights", "0.5", "--json").stdout)
    assert answer["outputs"][0]["modules"] == len(base)
    assert load_file(tmp_path / "out.safetensors").keys() == base.keys()
    ended = told(*arguments, tmp_path / "x.safetensors", "--weights", "0.5,x", code=2)
    assert "numbers with commas" in ended.stderr
    lacking = dict(list(base.items())[1:])
    write_safetensors(str(tmp_path / "base.safetensors"), lacking)
    ended = told(*arguments, tmp_path / "x.safetensors", code=2)
    assert "--leave-out" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    ended = told(*arguments, tmp_path / "x.safetensors", "--leave-out")
    assert "left out" in ended.stderr
    assert load_file(tmp_path / "x.safetensors").keys() == lacking.keys()
