"""Bad input: named in `problems`, in bounded time and memory, and the rest is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loracore.adapter import read_adapter
from loracore.errors import MalformedFile
from loracore.names.keys import parse_key
from tests.builders.architectures import LayerSpec
from tests.builders.write import write_sparse
from tests.shared.adapter.measures import randn, read

GOOD = {"good.lora_down.weight": randn(2, 6), "good.lora_up.weight": randn(5, 2), "good.alpha": torch.tensor(2.0)}
BAD: dict[str, tuple[str, dict[str, torch.Tensor]]] = {
    "rank 0": ("rank 0", {"down": torch.zeros(0, 6), "up": torch.zeros(5, 0)}),
    "no up": ("up is missing", {"down": randn(2, 6), "alpha": torch.tensor(1.0)}),
    "no down": ("down is missing", {"up": randn(5, 2)}),
    "ranks differ": ("do not fit", {"down": randn(2, 6), "up": randn(5, 3)}),
    "vectors": ("no matrix", {"down": randn(2), "up": randn(2)}),
    "nothing in it": ("dimension of 0", {"down": randn(2, 0), "up": randn(5, 2)}),
    "NaN alpha": ("alpha is nan", {"down": randn(2, 6), "up": randn(5, 2), "alpha": torch.tensor(float("nan"))}),
    "Inf alpha": ("alpha is inf", {"down": randn(2, 6), "up": randn(5, 2), "alpha": torch.tensor(float("inf"))}),
    "alpha alone": ("alpha without factors", {"alpha": torch.tensor(1.0)}),
    "mid": ("does not fit", {"down": randn(2, 6, 1, 1), "up": randn(5, 2, 1, 1), "mid": randn(3, 3, 3, 3)}),
}  # fmt: skip
#: In a process of its own, whose memory is nobody else's.
READ = """
import sys
from loracore.adapter import read_adapter
adapter = read_adapter(sys.argv[1])
# Not ru_maxrss, which begins with the memory of the process that started this one.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(adapter.modules), len(adapter.problems), peak)
"""
ROLES = {"down": "lora_down.weight", "up": "lora_up.weight", "mid": "lora_mid.weight", "alpha": "alpha"}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_module_is_named_and_the_others_are_read(kind: str, tmp_path: Path) -> None:
    """An error with the module's name and the reason; the good module beside it is whole."""
    text, tensors = BAD[kind]
    named = {f"bad.{ROLES[role]}": value for role, value in tensors.items()}
    adapter = read(os.fspath(tmp_path / "x.safetensors"), {**GOOD, **named})
    (module,) = adapter.modules
    assert module.key == "good"
    (problem,) = adapter.problems
    assert (problem.level, problem.module) == ("error", "bad")
    assert text in problem.text
    expected = GOOD["good.lora_up.weight"] @ GOOD["good.lora_down.weight"]
    np.testing.assert_allclose(module.delta(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "tensors",
    [
        {"hada_w1_a": randn(5, 2), "hada_w1_b": randn(2, 6), "hada_w2_a": randn(5, 2)},
        {"hada_w1_a": randn(5, 2), "hada_w1_b": randn(2, 6), "hada_w2_a": randn(5, 2), "hada_w2_b": randn(2, 7)},
        {"hada_w1_a": randn(2, 5), "hada_w1_b": randn(2, 6), "hada_w2_a": randn(2, 5), "hada_w2_b": randn(2, 6),
         "hada_t1": randn(2, 2, 3, 3)},
        {"lokr_w1": randn(2, 2), "lokr_w2_a": randn(2, 3)},
        {"lokr_w1": randn(2, 2), "lokr_w2_a": randn(2, 3), "lokr_w2_b": randn(4, 3)},
        {"lokr_w1": randn(2, 2, 3, 3), "lokr_w2": randn(2, 3)},
        {"lokr_w1": randn(2), "lokr_w2": randn(2, 3)},
        {"oft_blocks": randn(2, 3, 4)},
        {"oft_blocks": randn(4)},
        {"on_input": torch.tensor(1)},
        {"a1.weight": randn(3, 2), "a2.weight": randn(2, 3), "b1.weight": randn(4, 2)},
        {"a1.weight": randn(3, 2), "a2.weight": randn(2, 4), "b1.weight": randn(4, 2), "b2.weight": randn(2, 3)},
        {"lora_embedding_A": randn(2, 9), "lora_embedding_B": randn(4, 3)},
        {"lora_magnitude_vector": randn(4)},
        {"dora_scale": randn(4, 1)},
    ],
    ids="+".join,
)  # fmt: skip
def test_parts_that_do_not_fit_are_named(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Of every algorithm, missing and unfitting parts are an error with the module's name."""
    named = {f"bad.{role}": value for role, value in tensors.items()}
    adapter = read(os.fspath(tmp_path / "x.safetensors"), {**GOOD, **named})
    assert [module.key for module in adapter.modules] == ["good"]
    assert ("error", "bad") in {(problem.level, problem.module) for problem in adapter.problems}


def test_nan_in_factors_is_nan_in_delta_and_no_warning(tmp_path: Path) -> None:
    """Values are not looked at until they are read; then NaN and Inf come through quietly."""
    tensors = dict(GOOD) | {"good.lora_up.weight": torch.full((5, 2), float("nan"))}
    tensors["big.lora_down.weight"] = torch.full((2, 6), 6e4, dtype=torch.float16)
    tensors["big.lora_up.weight"] = torch.full((5, 2), float("inf"), dtype=torch.float16)
    adapter = read(os.fspath(tmp_path / "x.safetensors"), tensors)
    assert not [problem for problem in adapter.problems if problem.level == "error"]
    big, good = adapter.modules
    assert np.isnan(good.delta()).all()
    assert np.isinf(big.delta()).all()


def test_unknown_keys_and_mixed_conventions_are_reported(tmp_path: Path) -> None:
    """Each unknown key by its name, the conventions with their numbers, and every known module is read."""
    tensors = {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": randn(2, 6),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": randn(6, 2),
        "unet.mid_block.attentions.0.proj_out.lora.down.weight": randn(2, 6),
        "unet.mid_block.attentions.0.proj_out.lora.up.weight": randn(6, 2),
        "unet.mid_block.attentions.0.proj_in.lora.down.weight": randn(2, 6),
        "unet.mid_block.attentions.0.proj_in.lora.up.weight": randn(6, 2),
        "emb_params": randn(4),
        "model.conv.weight": randn(4),
    }
    adapter = read(os.fspath(tmp_path / "x.safetensors"), tensors)
    assert adapter.convention == "mixed"
    assert len(adapter.modules) == 3
    texts = {problem.module: problem.text for problem in adapter.problems}
    assert "kohya (1 modules)" in texts[""]
    assert "diffusers (2 modules)" in texts[""]
    assert {"emb_params", "model.conv.weight"} < texts.keys()
    assert "second module for 'mid_block.attentions.0.proj_in'" in texts["unet.mid_block.attentions.0.proj_in"]


def test_a_file_without_any_module_says_so(tmp_path: Path) -> None:
    """A checkpoint is no adapter: no module, an error, and the convention is unknown."""
    adapter = read(os.fspath(tmp_path / "x.safetensors"), {"model.layers.0.weight": randn(4, 4)})
    assert (adapter.convention, adapter.family, len(adapter.modules)) == ("unknown", "unknown", 0)
    assert adapter.problems[0].level == "error"


def test_small_factors_of_a_huge_delta_are_refused(tmp_path: Path) -> None:
    """A few megabytes can promise a ΔW of terabytes; asking for it is an error, not the end of the process."""
    specs = [
        LayerSpec("x.lora_down.weight", "F16", (1, 1 << 20)),
        LayerSpec("x.lora_up.weight", "F16", (1 << 20, 1)),
    ]
    specs += [LayerSpec("y.lokr_w1", "F16", (2000, 2000)), LayerSpec("y.lokr_w2", "F16", (2000, 2000))]
    adapter = read_adapter(write_sparse(os.fspath(tmp_path / "x.safetensors"), specs))
    for module in adapter.modules:
        with pytest.raises(MalformedFile, match=module.name):
            module.delta()


@pytest.mark.parametrize("known", [True, False])
def test_a_hundred_thousand_keys_cost_bounded_memory(known: bool, tmp_path: Path) -> None:
    """The most keys that a file may have: read in seconds, few problems, memory in proportion to the header."""
    names = []
    for n in range(65_000):
        stem = f"lora_unet_down_blocks_{n}_attentions_0_proj_in" if known else f"unknown_{n}"
        names += [f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"] if known else [f"{stem}.x", f"{stem}.y"]
    specs = [LayerSpec(name, "F16", (1, 1)) for name in names]
    path = write_sparse(os.fspath(tmp_path / "x.safetensors"), specs)
    done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True)
    modules, problems, kilobytes = map(int, done.stdout.split())
    assert modules == (65_000 if known else 0)
    assert problems < 110
    assert kilobytes < 600 << 10


@given(st.text(max_size=60))
def test_any_name_is_taken_apart_or_not(name: str) -> None:
    """No key makes the reader fail; a stem and its role are parts of it."""
    key = parse_key(name)
    if key is not None:
        assert key.stem
        assert name.startswith(key.stem)


@given(
    st.lists(
        st.sampled_from([".", "lora_A", "lora_down", "weight", "default", "_lora", "alpha", "x", "1"]), max_size=9
    )
)
def test_names_of_known_words_in_any_order_are_taken_apart_or_not(words: list[str]) -> None:
    """Also those that look like keys."""
    key = parse_key(".".join(words))
    assert key is None or key.stem
