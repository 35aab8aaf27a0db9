"""The statistics of SPEC section 7, of ΔW and of both factors."""

from __future__ import annotations

from lorakit.lowrank import svd as spectra
from lorakit.statistics.matrix import PERCENTILES, Matrix
from lorakit.statistics.registry import Value, statistic


@statistic("range")
def extremes(matrix: Matrix) -> dict[str, Value]:
    return {"min": matrix.scan.minimum, "max": matrix.scan.maximum}


@statistic("mean")
def mean(matrix: Matrix) -> float:
    return matrix.mean


@statistic("std")
def std(matrix: Matrix) -> float:
    """Of all entries, as a population (ddof 0)."""
    return matrix.std


@statistic("signs")
def signs(matrix: Matrix) -> dict[str, Value]:
    """How many entries are above, below and at zero, and their shares of all."""
    counts = {"positive": matrix.scan.positive, "negative": matrix.scan.negative}
    counts["zero"] = matrix.size - sum(counts.values())
    return {**counts, **{f"{name}_fraction": count / matrix.size for name, count in counts.items()}}


@statistic("percentiles")
def percentiles(matrix: Matrix) -> dict[str, Value]:
    """1 to 99, and the median."""
    found: dict[int, float] | dict[int, None] = matrix.percentiles or dict.fromkeys(PERCENTILES)
    return {"median": found[50], **{f"p{percent}": value for percent, value in found.items()}}


@statistic("norms")
def norms(matrix: Matrix) -> dict[str, Value]:
    """Of the entries as one vector: their absolute sum, ‖·‖_F, and the greatest."""
    greatest = max(matrix.scan.maximum, -matrix.scan.minimum)
    return {"l1": matrix.scan.absolute_sum, "l2": matrix.frobenius, "linf": greatest}


@statistic("svd")
def svd(matrix: Matrix) -> dict[str, Value]:
    """What the singular values tell. Beyond the rank, energies stay and singular values are 0."""
    wanted = range(1, matrix.bounds.singular_values + 1)
    values = matrix.singular_values
    if values is None:
        names = ["spectral_norm", "nuclear_norm", *(f"energy_{k}" for k in wanted), "effective_rank"]
        return dict.fromkeys(f"svd.{name}" for name in [*names, "stable_rank", *(f"s{k}" for k in wanted)])
    energy = spectra.cumulative_energy(values)
    last = float(energy[-1]) if values.size else 0.0
    return {
        "svd.spectral_norm": float(values[0]) if values.size else 0.0,
        "svd.nuclear_norm": float(values.sum()),
        **{f"svd.energy_{k}": float(energy[k - 1]) if k <= values.size else last for k in wanted},
        "svd.effective_rank": spectra.effective_rank(values),
        "svd.stable_rank": spectra.stable_rank(values),
        **{f"svd.s{k}": float(values[k - 1]) if k <= values.size else 0.0 for k in wanted},
    }
