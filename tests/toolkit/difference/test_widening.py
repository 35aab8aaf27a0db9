"""Stored entries become the numbers that torch reads: every code of every small float."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorakit.difference.widening import check, float_type, widen
from lorakit.modules.survey import Unfit

_TORCH = {
    "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip


@pytest.mark.parametrize("dtype", _TORCH)
@pytest.mark.parametrize("wide", [np.float32, np.float64])
@pytest.mark.parametrize("finite", [True, False])
def test_every_code_is_torchs_number(dtype: str, wide: type, finite: bool) -> None:
    """Subnormal numbers, both zeros, NaN and Inf; a block without these two takes a quicker way."""
    codes = np.arange(65536, dtype=np.uint16) if dtype in {"F16", "BF16"} else np.arange(256, dtype=np.uint8)
    values = torch.from_numpy(codes).view(_TORCH[dtype]).float()
    if finite:
        codes = codes[torch.isfinite(values).numpy()]
        values = values[torch.isfinite(values)]
    out, spare = np.empty(len(codes), wide), np.empty(len(codes), np.uint32)
    widen(dtype, codes.view(np.uint8), out, spare)
    assert np.array_equal(out, values.numpy(), equal_nan=True)
    if finite:
        assert np.array_equal(np.signbit(out), torch.signbit(values).numpy())


@pytest.mark.parametrize(
    ("dtype", "kind"), [("I64", np.int64), ("U8", np.uint8), ("BOOL", np.bool_), ("F64", np.float64)]
)
def test_plain_numbers_are_themselves(dtype: str, kind: type) -> None:
    values = np.array([0, 1, 1, 0, 1], kind)
    out = np.empty(5, float_type(dtype))
    widen(dtype, values.view(np.uint8), out, np.empty(5, np.uint32))
    assert out.tolist() == [0, 1, 1, 0, 1]


def test_what_has_no_values_is_unfit() -> None:
    for dtype in ("F4", "C64", "F6_E2M3"):
        with pytest.raises(Unfit, match=dtype):
            check(dtype)
