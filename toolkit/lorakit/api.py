"""The analyses as plain functions, in this process: no daemon, no client.

import lorakit

found = lorakit.importance("style.safetensors", threshold=0.9)
print(found["covering"], max(found["modules"], key=lambda row: row["dW.l2"])["module"])
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from loracore.errors import UsageError
from loracore.jobs.frame import Alone

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from loracore.jobs.change import Writing
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
    listed = [paths] if isinstance(paths, str | bytes | os.PathLike) else list(paths)
    wanted = format_of(os.fsdecode(output))
    parameters = PlotParameters(kind, tuple(map(os.fsencode, listed)), wanted, threshold)
    write_whole(output, run(parameters, _alone()).image)


def compare(base: Path, finetuned: Path, output: Path, *, force: bool = False, **options: Any) -> dict[str, Any]:
    """Compare two models into the folder `output`, by the fields of `CompareResult`.

    `options` are those of `CompareParameters`, and `check`, `dtype` and `device` of `Writing`. Raises FileError,
    UsageError and MissingPackage.
    """
    from loracore.jobs.compare import CompareParameters  # noqa: PLC0415
    from loracore.jobs.plain import plain  # noqa: PLC0415
    from lorakit.change.compare import run  # noqa: PLC0415

    writing = _writing(output, force, options)
    parameters = CompareParameters(_absolute(base), _absolute(finetuned), writing, **options)
    found: dict[str, Any] = plain(run(parameters, _alone()))
    return found


def extract(
    base: Path, finetuned: Path, output: Path, *, rank: int, force: bool = False, **options: Any
) -> dict[str, Any]:
    """The difference of two models as a LoRA in the folder `output`, by the fields of `ExtractResult`.

    `options`: `quality`, and `check`, `dtype` and `device` of `Writing`. Raises FileError and UsageError.
    """
    from loracore.jobs.extract import ExtractParameters  # noqa: PLC0415
    from loracore.jobs.plain import plain  # noqa: PLC0415
    from lorakit.change.extract import run  # noqa: PLC0415

    writing = _writing(output, force, options)
    parameters = ExtractParameters(_absolute(base), _absolute(finetuned), rank, writing, **options)
    found: dict[str, Any] = plain(run(parameters, _alone()))
    return found


def report(path: Path) -> dict[str, Any]:
    """What a folder says that `compare` or `extract` wrote, by the fields of `ReportResult`. Raises FileError."""
    from loracore.jobs.plain import plain  # noqa: PLC0415
    from loracore.jobs.report import ReportParameters  # noqa: PLC0415
    from lorakit.change.report import run  # noqa: PLC0415

    found: dict[str, Any] = plain(run(ReportParameters(os.fsencode(path)), _alone()))
    return {name: value for name, value in found.items() if name != "pictures"}


def _writing(output: Path, force: bool, options: dict[str, Any]) -> Writing:
    """How to write; what is meant for it is taken out of `options`."""
    from loracore.jobs.change import Writing  # noqa: PLC0415

    taken = {name: options.pop(name) for name in ("check", "dtype", "device") if name in options}
    return Writing(_absolute(output), force=force, **taken)


def _absolute(path: Path) -> bytes:
    return os.path.abspath(os.fsencode(path))


def _alone() -> Alone:
    return Alone(len(os.sched_getaffinity(0)))
