"""The analyses and changes as plain functions, in this process: no daemon, no client.

import lorakit

found = lorakit.importance("style.safetensors", threshold=0.9)
print(found["covering"], max(found["modules"], key=lambda row: row["dW.l2"])["module"])
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from loracore.errors import UsageError
from loracore.jobs.frame import Alone

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from loracore.jobs.change import Changed, Stored
    from loracore.jobs.convert import Convention
    from loracore.jobs.plot import Kind

Path = str | bytes | os.PathLike[str]


class LayerComponents(TypedDict):
    """A layer's principal components. Its rows are samples, its columns features."""

    explained_variance_ratio: NDArray[np.float64]
    singular_values: NDArray[np.float64]
    components: NDArray[np.float64]
    transformed_data: NDArray[np.float64]
    n_components: int
    total_variance: float
    cumulative_variance: NDArray[np.float64]


class PcaResults(TypedDict):
    """What `pca` gives. `faults`: layers that were left out, and why."""

    success: bool
    pca_results: dict[str, LayerComponents]
    n_components: int
    total_layers: int
    faults: dict[str, str]


def importance(path: Path, **options: Any) -> dict[str, Any]:
    """Statistics of each module and what the blocks weigh, by the fields of `ImportanceResult`.

    `options` are those of `ImportanceParameters`. Raises FileError, UsageError and MissingPackage.
    """
    from loracore.jobs.importance import ImportanceParameters  # noqa: PLC0415 - each function loads what it needs
    from loracore.jobs.plain import plain  # noqa: PLC0415
    from lorakit.analysis.importance import run  # noqa: PLC0415

    found: dict[str, Any] = plain(run(ImportanceParameters(os.fsencode(path), **options), _alone()))
    return found


def spectrum(path: Path, *, svd_limit: int | None = None) -> dict[str, Any]:
    """Singular values of each module's ΔW, by the fields of `SpectrumResult`. Raises FileError and UsageError."""
    from loracore.jobs.plain import plain  # noqa: PLC0415
    from loracore.jobs.spectrum import SpectrumParameters  # noqa: PLC0415
    from lorakit.analysis.spectrum import run  # noqa: PLC0415

    found: dict[str, Any] = plain(run(SpectrumParameters(os.fsencode(path), svd_limit), _alone()))
    return found


def pca(path: Path, n_components: int = 10) -> PcaResults:
    """Principal components of each layer, columns standardised, in double precision.

    Raises FileError and UsageError.
    """
    import numpy as np  # noqa: PLC0415

    from lorakit.analysis.pca import analyse  # noqa: PLC0415

    found = analyse(os.fsencode(path), n_components, _alone(), lambda components: components)
    layers: dict[str, LayerComponents] = {
        name: {
            "explained_variance_ratio": one.explained_variance_ratio,
            "singular_values": one.singular_values,
            "components": one.components,
            "transformed_data": one.transformed,
            "n_components": len(one.singular_values),
            "total_variance": one.total_variance,
            "cumulative_variance": np.cumsum(one.explained_variance_ratio),
        }
        for name, one in found.results.items()
    }
    return {
        "success": bool(layers),
        "pca_results": layers,
        "n_components": n_components,
        "total_layers": len(layers),
        "faults": {fault.module: fault.reason for fault in found.faults},
    }


def plot(kind: Kind, paths: Path | Sequence[Path], output: Path, *, threshold: float = 0.9) -> None:
    """Draw a picture into `output`, PNG or SVG by its suffix; a file of that name is replaced.

    Raises FileError, UsageError, and MissingPackage without matplotlib.
    """
    from loracore.jobs.plot import KINDS, PlotParameters, format_of  # noqa: PLC0415
    from loracore.whole import write_whole  # noqa: PLC0415
    from lorakit.plots.job import run  # noqa: PLC0415

    if kind not in KINDS:
        raise UsageError(f"there is no plot {kind!r}; there are {', '.join(KINDS)}")
    wanted = format_of(os.fsdecode(output))
    parameters = PlotParameters(kind, tuple(map(os.fsencode, _listed(paths))), wanted, threshold)
    write_whole(output, run(parameters, _alone()).image)


def resize(
    path: Path,
    output: Path,
    *,
    rank_per_block: Mapping[str, int] | Path | None = None,
    budget: int | str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write a LoRA of other ranks into `output`; what became of it, by the fields of `Changed`.

    `rank_per_block`: ranks by pattern, or the JSON or TOML file with them; `budget`: bytes, or "20MB". Other
    `options` are those of `ResizeParameters` and `Writing`. Raises FileError, UsageError and MissingPackage.
    """
    from loracore.jobs.resize import ResizeParameters, parse_size, read_block_ranks  # noqa: PLC0415
    from lorakit.change.resize import run  # noqa: PLC0415

    if rank_per_block is not None:
        if isinstance(rank_per_block, str | bytes | os.PathLike):
            rank_per_block = read_block_ranks(rank_per_block)
        options["block_ranks"] = dict(rank_per_block)
    if budget is not None:
        options["budget"] = parse_size(budget) if isinstance(budget, str) else budget
    return _changed(run, ResizeParameters, output, options, path=os.fsencode(path))


def merge(paths: Path | Sequence[Path], output: Path, **options: Any) -> dict[str, Any]:
    """Write several LoRAs as one into `output`; what became of it, by the fields of `Changed`.

    `options` are those of `MergeParameters` (`weights`, `rank`, `method` …) and `Writing`. Raises FileError,
    UsageError and MissingPackage.
    """
    from loracore.jobs.merge import METHODS, MergeParameters  # noqa: PLC0415
    from lorakit.change.merge import run  # noqa: PLC0415

    if options.get("method", METHODS[0]) not in METHODS:
        raise UsageError(f"there is no method {options['method']!r}; there are {', '.join(METHODS)}")
    lists = {name: tuple(options.pop(name)) for name in ("weights", "include", "exclude") if name in options}
    return _changed(run, MergeParameters, output, options, paths=tuple(map(os.fsencode, _listed(paths))), **lists)


def _changed(
    run: Callable[[Any, Alone], Changed],
    parameters: Callable[..., Any],
    output: Path,
    options: dict[str, Any],
    **inputs: Any,
) -> dict[str, Any]:
    """Do a job that writes; `options` are those of its parameters and of `Writing`. Raises as the job does."""
    from loracore.jobs.change import Writing  # noqa: PLC0415
    from loracore.jobs.plain import plain  # noqa: PLC0415

    where = {name: options.pop(name) for name in ("force", "check", "dtype", "device") if name in options}
    writing = Writing(os.path.abspath(os.fsencode(output)), **where)
    found: dict[str, Any] = plain(run(parameters(writing=writing, **inputs, **options), _alone()))
    return found


def _listed(paths: Path | Sequence[Path]) -> Sequence[Path]:
    return [paths] if isinstance(paths, str | bytes | os.PathLike) else list(paths)


def convert(
    path: Path,
    output: Path,
    *,
    to: Convention | None = None,
    dtype: Stored | None = None,
    fold: bool = False,
    leave_out: bool = False,
    force: bool = False,
    check: bool = False,
) -> dict[str, Any]:
    """Write a LoRA under another convention's names, in another dtype or container, by the fields of `Changed`.

    Raises FileError, UsageError and MissingPackage; for a check, the last two are in `errors`.
    """
    from loracore.jobs.change import Writing  # noqa: PLC0415
    from loracore.jobs.convert import ConvertParameters  # noqa: PLC0415
    from loracore.jobs.plain import plain  # noqa: PLC0415
    from lorakit.change.conversion.job import run  # noqa: PLC0415

    writing = Writing(os.fsencode(output), force=force, check=check, dtype=dtype)
    wanted = ConvertParameters(os.fsencode(path), writing, to, fold, leave_out)
    found: dict[str, Any] = plain(run(wanted, _alone()))
    return found


def bake(
    paths: Path | Sequence[Path],
    base: Path,
    output: Path,
    *,
    weights: Sequence[float] | None = None,
    leave_out: bool = False,
    force: bool = False,
    check: bool = False,
) -> dict[str, Any]:
    """Merge LoRAs into a base model, which stays as it is, by the fields of `Changed`.

    `weights`: how much of each LoRA, 1 by default. Raises FileError, UsageError and MissingPackage.
    """
    from loracore.jobs.bake import BakeParameters  # noqa: PLC0415
    from loracore.jobs.change import Writing  # noqa: PLC0415
    from loracore.jobs.plain import plain  # noqa: PLC0415
    from lorakit.change.baking.job import run  # noqa: PLC0415

    listed = [paths] if isinstance(paths, str | bytes | os.PathLike) else list(paths)
    writing = Writing(os.fsencode(output), force=force, check=check)
    wanted = BakeParameters(
        tuple(map(os.fsencode, listed)), os.fsencode(base), writing, tuple(weights or ()), leave_out
    )
    found: dict[str, Any] = plain(run(wanted, _alone()))
    return found


def _alone() -> Alone:
    return Alone(len(os.sched_getaffinity(0)))
