"""Values are stored as torch stores them, and refused where a dtype cannot hold them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from loracore.errors import UsageError
from lorakit.output.rounding import stored

TORCH = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def torchs(values: NDArray[np.float32], dtype: str) -> bytes:
    """As torch rounds them; through bytes, since numpy knows no bfloat16."""
    return torch.from_numpy(values).to(TORCH[dtype]).view(torch.uint8).numpy().tobytes()


def edge_cases(dtype: str) -> NDArray[np.float32]:
    """All values of the dtype, the middle between any two, and what lies right beside that middle."""
    codes = np.arange(256, dtype=np.uint8) if dtype.startswith("F8") else np.arange(65536, dtype=np.uint16)
    if dtype == "F32":
        return np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    raw = torch.from_numpy(codes.view(np.int8 if dtype.startswith("F8") else np.int16)).view(TORCH[dtype])
    values = raw.double().numpy()
    values = np.sort(values[np.isfinite(values)])
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    around = [middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))]
    return np.concatenate([values.astype(np.float32), *around])


@pytest.mark.parametrize("dtype", TORCH)
def test_rounding_is_torchs(dtype: str) -> None:
    """To nearest, ties to even, subnormal numbers and both zeros included."""
    with np.errstate(all="ignore"):
        values = edge_cases(dtype)
    tiny = np.array([1e-45, -1e-45, 1e-40, 6e-8, 2.98e-8, 2.99e-8, 0.0, -0.0], np.float32)
    for each in (values, tiny):
        assert bytes(stored(each, dtype, "x")) == torchs(each, dtype)


@pytest.mark.parametrize("source", [np.float64, np.float16])
def test_any_order_and_precision_can_be_given(source: type) -> None:
    """The bytes are in C order, whatever the array's strides are."""
    values = np.random.default_rng(1).standard_normal((6, 4)).astype(source)
    assert bytes(stored(values.T, "BF16", "x")) == torchs(np.ascontiguousarray(values.T, np.float32), "BF16")
    assert bytes(stored(values.T, "F64", "x")) == np.ascontiguousarray(values.T, "<f8").tobytes()
    assert bytes(stored(np.zeros((0, 3)), "F16", "x")) == b""
    assert bytes(stored(np.array(2.5), "F16", "x")) == np.float16(2.5).tobytes()


LARGEST = {"F16": 65504.0, "BF16": 3.3895e38, "F8_E4M3": 448.0, "F8_E5M2": 57344.0}


@pytest.mark.parametrize("dtype", LARGEST)
def test_what_is_too_large_is_refused_with_the_remedy(dtype: str) -> None:
    """Up to what would be rounded to the largest value; the layer is named."""
    stored(np.array([LARGEST[dtype], -LARGEST[dtype]], np.float32), dtype, "x")
    for sign in (1, -1):
        with pytest.raises(UsageError, match=r"'some\.layer' holds .*more than") as error:
            stored(np.array([0, sign * LARGEST[dtype] * 1.1], np.float64), dtype, "some.layer")
        assert str(error.value).endswith("; take --dtype float32")


@pytest.mark.parametrize("dtype", [*TORCH, "F64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_by_layer(dtype: str, value: float) -> None:
    with pytest.raises(UsageError, match=r"'some\.layer' would hold NaN or Inf"):
        stored(np.array([1.0, value, 2.0]), dtype, "some.layer")


def test_a_sum_that_overflows_is_no_reason_to_refuse() -> None:
    """Many large values whose sum is beyond all numbers are finite each."""
    values = np.full(10, 3e38, np.float32)
    assert bytes(stored(values, "F32", "x")) == values.tobytes()
    wide = np.full(10, 1.7e308)
    assert bytes(stored(wide, "F64", "x")) == wide.tobytes()
