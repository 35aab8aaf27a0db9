"""Results of the analyses as the tables that people read and export."""

from __future__ import annotations

import msgspec

from loracore.jobs.importance import ImportanceResult
from loracore.jobs.pca import PcaResult
from loracore.jobs.results import Cell, Table, from_rows
from loracore.jobs.spectrum import SpectrumResult

_IMPORTANCE = (
    "module", "rank", "dW.l2", "dW.svd.effective_rank", "dW.svd.spectral_norm", "dW.std", "dW.linf",
    "dW.svd.energy_1", "dW.svd.stable_rank",
)  # fmt: skip
SPECTRUM_COLUMNS = (
    "module", "rank", "effective_rank", "rank_95", "spectral_norm", "frobenius_norm", "stable_rank",
    "rank_90", "rank_99",
)  # fmt: skip
PCA_COLUMNS = ("layer", "variance_1", "variance_2", "variance_3", "cumulative", "total_variance", "n_components")
#: Singular values that have a column in exports that are tables.
_VALUES = 16


def sorted_by(found: ImportanceResult, sort: str, top: int | None) -> ImportanceResult:
    """With the modules in this order. Raises UsageError for a column that is not there.

    Where every module was left out there is nothing to sort, and no column.
    """
    if not len(found.modules):
        return found
    modules = found.modules.sorted(sort)
    return msgspec.structs.replace(found, modules=modules.head(top) if top else modules)


def importance_columns(sort: str) -> tuple[str, ...]:
    """Those that fit on a terminal, and the one that it is sorted by."""
    return _IMPORTANCE if sort in _IMPORTANCE else (_IMPORTANCE[0], sort, *_IMPORTANCE[1:])


def blocks_table(found: ImportanceResult) -> Table:
    rows: list[dict[str, Cell]] = []
    running = 0.0
    total = sum(_share(block, found.by) for block in found.blocks) or 1.0
    for block in found.blocks:
        running += _share(block, found.by) / total
        rows.append({
            "block": block.block, "modules": block.modules, "l2": block.l2, "energy": block.energy,
            "softmax": block.softmax, "cumulative": running, "covering": "yes" if block.covering else "no",
        })  # fmt: skip
    return from_rows(rows)


def covering_line(found: ImportanceResult) -> str:
    count, total = len(found.covering), len(found.blocks)
    if total and not count:
        return "ΔW is zero in all of them: this LoRA is not trained, and changes nothing"
    return f"{count:,} of {total:,} blocks hold {found.covered:.1%} of the importance ({found.by})"


def spectrum_table(found: SpectrumResult, sort: str | None, top: int | None) -> Table:
    """A row for each module. Raises UsageError for a column that is not there."""
    rows: list[dict[str, Cell]] = []
    for module in found.modules:
        cells = msgspec.structs.asdict(module)
        values = cells.pop("singular_values")
        cells["shape"] = "x".join(map(str, module.shape))
        cells.update({f"s{place}": value for place, value in enumerate(values[:_VALUES], 1)})
        rows.append(cells)
    table = from_rows(rows)
    if sort is not None and rows:
        table = table.sorted(sort)
    return table.head(top) if top else table


def pca_table(found: PcaResult) -> Table:
    """A row for each layer: what each component explains, and its singular value."""
    rows: list[dict[str, Cell]] = []
    for name, layer in found.pca_results.items():
        rows.append({
            "layer": name,
            "n_components": layer.n_components,
            "total_variance": layer.total_variance,
            "cumulative": layer.cumulative_variance[-1],
            **{f"variance_{place}": one for place, one in enumerate(layer.explained_variance_ratio, 1)},
            **{f"s{place}": one for place, one in enumerate(layer.singular_values, 1)},
        })  # fmt: skip
    return from_rows(rows)


def _share(block: object, by: str) -> float:
    return float(getattr(block, by) or 0.0)
