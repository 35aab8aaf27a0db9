"""`importance`: statistics of each module's ΔW and factors, and what the blocks weigh (SPEC section 7)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from loracore.adapter import Module
from loracore.errors import UsageError
from loracore.jobs.importance import SPEC, BlockImportance, ImportanceParameters, ImportanceResult
from loracore.jobs.job import Context
from loracore.jobs.results import Cell, Table, from_rows
from lorakit.modules.matrices import matrices, opened, weight
from lorakit.modules.survey import survey
from lorakit.statistics import devices, registry
from lorakit.statistics.matrix import Bounds
from lorakit.statistics.scan import Workspace
from lorakit.statistics.shares import covering, softmax

_NORM = "svd.spectral_norm"
_SOFTMAX = "softmax_norm"


def run(parameters: ImportanceParameters, context: Context) -> ImportanceResult:
    """Raises FileError for no adapter, UsageError, and MissingPackage for a device without its package."""
    _check(parameters)
    registry.load_installed()
    bounds = Bounds(
        dtype=np.float64 if parameters.dtype == "float64" else np.float32,
        svd=parameters.svd,
        svd_limit=parameters.svd_limit,
        percentiles=parameters.percentiles,
        exact=parameters.exact,
        singular_values=parameters.singular_values,
        device=devices.find(parameters.device),
    )

    def row(module: Module, workspace: Workspace) -> dict[str, Cell]:
        cells = _facts(module)
        for part, matrix in matrices(module, bounds, workspace).items():
            cells.update(registry.evaluate(part, matrix))
        return cells

    with opened(parameters.path) as file:
        found = survey(file.modules, name=file.label, weight=weight, work=row, context=context)
        rows = [{"module": name, **cells} for name, cells in found.results.items()]
        modules = _ordered(from_rows(_with_softmax(rows)))
        blocks, names, covered = _blocks(rows, parameters)
        return ImportanceResult(
            path=parameters.path,
            family=file.adapter.family,
            modules=modules,
            blocks=blocks,
            by=parameters.by,
            threshold=parameters.threshold,
            covering=names,
            covered=covered,
            faults=(*file.faults, *found.faults),
            warnings=file.warnings,
        )


JOB = SPEC.implemented(run)


def _check(parameters: ImportanceParameters) -> None:
    if not 0 < parameters.threshold <= 1:
        raise UsageError(f"threshold {parameters.threshold}: give a share above 0 and up to 1")
    if parameters.singular_values < 1:
        raise UsageError(f"{parameters.singular_values} singular values: give 1 or more")
    if parameters.by == "softmax" and not parameters.svd:
        raise UsageError("importance by softmax needs the spectral norms; leave out --no-svd, or take --by energy")


def _facts(module: Module) -> dict[str, Cell]:
    return {
        "block": module.block,
        "component": module.component,
        "algorithm": module.algorithm,
        "rank": module.rank,
        "alpha": module.alpha,
        "scale": module.scale,
        "shape": "x".join(map(str, module.shape)),
    }


def _with_softmax(rows: list[dict[str, Cell]]) -> list[dict[str, Cell]]:
    """The softmax of the spectral norms, over all modules."""
    for part in registry.PARTS:
        shares = softmax([_number(row.get(f"{part}.{_NORM}")) for row in rows])
        if any(share is not None for share in shares):
            for row, share in zip(rows, shares, strict=True):
                row[f"{part}.{_SOFTMAX}"] = share
    return rows


def _ordered(table: Table) -> Table:
    """What is told of a module, then of ΔW, of A and of B."""
    places = {part: place for place, part in enumerate(registry.PARTS, 1)}
    return Table(tuple(sorted(table.columns, key=lambda column: places.get(column.name.partition(".")[0], 0))))


def _blocks(
    rows: Sequence[dict[str, Cell]], parameters: ImportanceParameters
) -> tuple[tuple[BlockImportance, ...], tuple[str, ...], float]:
    """All blocks, the smallest set that covers the threshold, and what share that holds."""
    members: dict[str, list[dict[str, Cell]]] = defaultdict(list)
    for row in rows:
        members[str(row["block"])].append(row)
    squares = {block: _sum(of, "dW.l2", 2) for block, of in members.items()}
    softmaxes = {block: _sum(of, f"dW.{_SOFTMAX}", 1) for block, of in members.items()}
    total, norms = sum(squares.values()), sum(softmaxes.values())
    importance = squares if parameters.by == "energy" else softmaxes
    names = covering(importance, parameters.threshold)
    covered = sum(importance[name] for name in names) / (sum(importance.values()) or 1.0)
    blocks = [
        BlockImportance(
            block=block,
            modules=len(members[block]),
            l2=squares[block] ** 0.5,
            energy=squares[block] / total if total else 0.0,
            softmax=softmaxes[block] / norms if norms else None,
            covering=block in names,
        )
        for block in sorted(members, key=lambda block: -importance[block])
    ]
    return tuple(blocks), names, covered


def _sum(rows: Sequence[dict[str, Cell]], column: str, power: int) -> float:
    return sum((_number(row.get(column)) or 0.0) ** power for row in rows)


def _number(cell: Cell) -> float | None:
    return None if cell is None or isinstance(cell, str) else float(cell)
