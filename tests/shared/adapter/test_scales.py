"""Scales, whatever numbers a file holds."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loracore.adapter import Module
from tests.shared.adapter.measures import apart, randn, read

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def one(tensors: dict[str, torch.Tensor]) -> Module:
    with tempfile.TemporaryDirectory() as folder:
        (module,) = read(os.path.join(folder, "x.safetensors"), tensors).modules
        return module


def factors(rank: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {"x.lora_down.weight": randn(rank, 5).to(dtype), "x.lora_up.weight": randn(7, rank, seed=1).to(dtype)}


@given(
    alpha=st.floats(2**-10, 2**10),
    rank=st.integers(1, 40),
    dtype=st.sampled_from(sorted(DTYPES)),
    shape=st.sampled_from([(), (1,), (1, 1)]),
)
def test_scale_is_alpha_by_rank(alpha: float, rank: int, dtype: str, shape: tuple[int, ...]) -> None:
    """The alpha that the file's dtype can hold, over the rank of `lora_down`; ΔW has it, and so has the pair."""
    stored = torch.full(shape, alpha, dtype=DTYPES[dtype])
    module = one({**factors(rank), "x.alpha": stored})
    assert module.alpha == stored.double().item()
    assert module.scale == stored.double().item() / rank
    expected = module.scale * module.tensor("up", np.float64) @ module.tensor("down", np.float64)
    assert apart(module.delta(), expected) < 1e-6
    assert apart(module.delta(np.float64), expected) < 1e-14


@given(rank=st.integers(1, 20), alpha=st.sampled_from([None, 0.0]))
def test_without_alpha_and_with_alpha_zero_the_scale_is_one(rank: int, alpha: float | None) -> None:
    """A missing alpha means 1; LyCORIS and kohya take 0 for the rank."""
    beside = {} if alpha is None else {"x.alpha": torch.tensor(alpha)}
    assert one({**factors(rank), **beside}).scale == 1


@given(alpha=st.floats(0.5, 64), rank=st.integers(1, 6), whole=st.booleans(), tucker=st.booleans())
def test_lokr_takes_the_rank_of_what_is_factored(alpha: float, rank: int, whole: bool, tucker: bool) -> None:
    """Alpha over the rank of the second part, else of the first; 1 where both are whole."""
    tensors: dict[str, Any] = {"x.alpha": torch.tensor(alpha, dtype=torch.float64)}
    second = (
        {"x.lokr_w2": randn(3, 5)} if whole else {"x.lokr_w2_a": randn(3, rank), "x.lokr_w2_b": randn(rank, 5)}
    )
    if tucker and not whole:
        second = {
            "x.lokr_t2": randn(rank, rank, 3, 3), "x.lokr_w2_a": randn(rank, 3), "x.lokr_w2_b": randn(rank, 5),
        }  # fmt: skip
    module = one({**tensors, "x.lokr_w1": randn(2, 4), **second})
    assert module.scale == (1 if whole else alpha / rank)
    assert module.shape == ((6, 20, 3, 3) if tucker and not whole else (6, 20))
    factored = {"x.lokr_w1_a": randn(2, rank), "x.lokr_w1_b": randn(rank, 4), "x.lokr_w2": randn(3, 5)}
    assert one({**tensors, **factored}).scale == alpha / rank


@pytest.mark.parametrize("dtype", [*DTYPES.values(), torch.float8_e4m3fn, torch.float8_e5m2])
def test_delta_of_stored_values_is_exact_whatever_their_dtype(dtype: torch.dtype) -> None:
    """Factors are upcast before anything is computed."""
    tensors = factors(3, dtype)
    module = one(tensors)
    expected = tensors["x.lora_up.weight"].double() @ tensors["x.lora_down.weight"].double()
    assert apart(module.delta(np.float64), expected) < 1e-14
