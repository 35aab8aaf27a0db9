"""The sums of a block by torch, for `--engine torch` and `both`: the same numbers by other code."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from loracore.errors import MissingPackage
from lorakit.difference.measure import Block, Engine, Sums
from lorakit.difference.pairs import Pair
from lorakit.difference.widening import MANTISSA
from lorakit.modules.survey import Unfit

_TORCH = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip


def engine() -> Engine:
    """Raises MissingPackage without torch."""
    try:
        import torch  # noqa: PLC0415 - takes a second
    except ModuleNotFoundError as error:
        raise MissingPackage("--engine torch needs torch: pip install torch", "compare") from error
    torch.set_num_threads(1)

    def sums(pair: Pair, block: Block, threshold: float) -> Sums:
        base = _tensor(torch, block.base, pair.base.dtype)
        finetuned = _tensor(torch, block.finetuned, pair.finetuned.dtype)
        wide = torch.promote_types(base.dtype, finetuned.dtype)
        difference = (finetuned.to(wide) - base.to(wide)).abs()
        if not bool(torch.isfinite(difference).all()):
            for model, values in (("base", base), ("fine-tuned model", finetuned)):
                if not bool(torch.isfinite(values).all()):
                    raise Unfit(f"it holds {'NaN' if bool(values.isnan().any()) else 'Inf'} in the {model}")
        return Sums(
            entries=block.entries,
            changed=int((difference > threshold).sum()),
            absolute=float(difference.sum()),
            largest=float(difference.max()),
            squares=_squares(torch, difference),
            base_squares=_squares(torch, base),
            floor=_floor(torch, pair, finetuned),
        )

    return sums


def _squares(torch: Any, values: Any) -> float:
    # A product in float32 loses digits that grow with the length.
    return float(values.square().sum(dtype=torch.float64))


def _floor(torch: Any, pair: Pair, finetuned: Any) -> float:
    """As that of `difference`: Σ ulp² / 12 of the coarser dtype."""
    bits = [MANTISSA[tensor.dtype] for tensor in (pair.base, pair.finetuned) if tensor.dtype in MANTISSA]
    if not bits or finetuned.dtype != torch.float32:
        return 0.0
    exponents = torch.frexp(finetuned)[1][finetuned != 0].double() - 1
    return float(torch.exp2(2 * exponents).sum()) * 4.0 ** -min(bits) / 12


def _tensor(torch: Any, raw: NDArray[Any], dtype: str) -> Any:
    """The entries as float32, or float64 where they need it."""
    values = torch.from_numpy(raw).view(getattr(torch, _TORCH[dtype]))
    return values.double() if dtype in {"F64", "I64", "I32", "U64", "U32"} else values.float()
