"""All jobs as plain functions, in this process: no daemon, no client.

import lorakit

found = lorakit.importance("style.safetensors", threshold=0.9)
print(found["covering"], max(found["modules"], key=lambda row: row["dW.l2"])["module"])
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from loracore.errors import UsageError
from loracore.jobs.change import Writing
from loracore.jobs.convert import Convention
from loracore.jobs.hashes import HashesParameters
from loracore.jobs.importance import ImportanceParameters
from loracore.jobs.job import Alone, Job, find, load, needed, ours
from loracore.jobs.merge import METHODS
from loracore.jobs.metadata import MetadataParameters
from loracore.jobs.plot import KINDS, Kind, PlotParameters, format_of
from loracore.jobs.report import ReportParameters
from loracore.jobs.resize import parse_size, read_block_ranks
from loracore.jobs.results import plain
from loracore.jobs.spectrum import SpectrumParameters
from loracore.whole import write_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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


def hashes(path: Path) -> dict[str, Any]:
    """All identity hashes of a file, by the fields of `HashesResult`. Raises FileError."""
    return _found("hashes", HashesParameters(os.fsencode(path)))


def metadata(path: Path, *, values: bool = False) -> dict[str, Any]:
    """What a file is and says about itself, by the fields of `MetadataResult`.

    `values`: look for NaN and Inf, too. Raises FileError.
    """
    return _found("metadata", MetadataParameters(os.fsencode(path), values))


def importance(path: Path, **options: Any) -> dict[str, Any]:
    """Statistics of each module and what the blocks weigh, by the fields of `ImportanceResult`.

    `options` are those of `ImportanceParameters`. Raises FileError, UsageError and MissingPackage.
    """
    return _found("importance", ImportanceParameters(os.fsencode(path), **options))


def spectrum(path: Path, *, svd_limit: int | None = None) -> dict[str, Any]:
    """Singular values of each module's ΔW, by the fields of `SpectrumResult`. Raises FileError and UsageError."""
    return _found("spectrum", SpectrumParameters(os.fsencode(path), svd_limit))


def pca(path: Path, n_components: int = 10) -> PcaResults:
    """Principal components of each layer, columns standardised, in double precision.

    Raises FileError and UsageError.
    """
    with needed(ours("pca")):
        from lorakit.jobs.pca import analyse  # noqa: PLC0415 - brings numpy

        found = analyse(os.fsencode(path), n_components, _alone(), lambda components: components)
    layers: dict[str, LayerComponents] = {
        name: {
            "explained_variance_ratio": one.explained_variance_ratio,
            "singular_values": one.singular_values,
            "components": one.components,
            "transformed_data": one.transformed,
            "n_components": len(one.singular_values),
            "total_variance": one.total_variance,
            "cumulative_variance": one.explained_variance_ratio.cumsum(),
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
    if kind not in KINDS:
        raise UsageError(f"there is no plot {kind!r}; there are {', '.join(KINDS)}")
    wanted = format_of(os.fsdecode(output))
    parameters = PlotParameters(kind, _listed(paths), wanted, threshold)
    write_whole(output, _run("plot", parameters).image)


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
    if rank_per_block is not None:
        if isinstance(rank_per_block, str | bytes | os.PathLike):
            rank_per_block = read_block_ranks(rank_per_block)
        options["block_ranks"] = dict(rank_per_block)
    if budget is not None:
        options["budget"] = parse_size(budget) if isinstance(budget, str) else budget
    return _written("resize", output, options, path=_absolute(path))


def merge(paths: Path | Sequence[Path], output: Path, **options: Any) -> dict[str, Any]:
    """Write several LoRAs as one into `output`; what became of it, by the fields of `Changed`.

    `options` are those of `MergeParameters` (`weights`, `rank`, `method` …) and `Writing`. Raises FileError,
    UsageError and MissingPackage.
    """
    if options.get("method", METHODS[0]) not in METHODS:
        raise UsageError(f"there is no method {options['method']!r}; there are {', '.join(METHODS)}")
    lists = {name: tuple(options.pop(name)) for name in ("weights", "include", "exclude") if name in options}
    return _written("merge", output, options, paths=_listed(paths), **lists)


def convert(path: Path, output: Path, *, to: Convention | None = None, **options: Any) -> dict[str, Any]:
    """Write a LoRA under another convention's names, in another dtype or container, by the fields of `Changed`.

    `options` are those of `ConvertParameters` (`fold`, `leave_out`) and `Writing`. Raises FileError, UsageError
    and MissingPackage; for a check, the last two are in `errors`.
    """
    return _written("convert", output, options, path=_absolute(path), to=to)


def edit(paths: Path | Sequence[Path] = (), *, apply: bool = False, **options: Any) -> dict[str, Any]:
    """What the headers of files become, by the fields of `EditResult`; `apply` writes it.

    Other `options` are those of `EditParameters`, such as `set`, `unset`, `title` and `undo`. What cannot be
    done to a file is said in `files`. Raises UsageError and StateError.
    """
    lists = {name: _texts(options.pop(name)) for name in ("unset", "strip", "trigger", "undo") if name in options}
    job = _job("edit")
    try:
        wanted = job.parameters(paths=_listed(paths), apply=apply, **lists, **options)
        return _found("edit", job.decoded(msgspec.msgpack.encode(wanted)))
    except (msgspec.MsgspecError, TypeError, OverflowError, UnicodeError) as error:
        raise UsageError(f"wrong parameters: {error}") from error


def bake(paths: Path | Sequence[Path], base: Path, output: Path, **options: Any) -> dict[str, Any]:
    """Merge LoRAs into a base model, which stays as it is, by the fields of `Changed`.

    `options` are those of `BakeParameters` (`weights`: how much of each LoRA, 1 by default) and `Writing`. Raises
    FileError, UsageError and MissingPackage.
    """
    options["weights"] = tuple(options.get("weights") or ())
    return _written("bake", output, options, paths=_listed(paths), base=_absolute(base))


def compare(base: Path, finetuned: Path, output: Path, **options: Any) -> dict[str, Any]:
    """Compare two models into the folder `output`, by the fields of `CompareResult`.

    `options` are those of `CompareParameters` and `Writing`. Raises FileError, UsageError and MissingPackage.
    """
    models = {"base": _absolute(base), "finetuned": _absolute(finetuned)}
    return _written("compare", output, options, **models)


def extract(base: Path, finetuned: Path, output: Path, *, rank: int, **options: Any) -> dict[str, Any]:
    """The difference of two models as a LoRA in the folder `output`, by the fields of `ExtractResult`.

    `options`: `quality`, and those of `Writing`. Raises FileError and UsageError.
    """
    models = {"base": _absolute(base), "finetuned": _absolute(finetuned)}
    return _written("extract", output, options, rank=rank, **models)


def report(path: Path) -> dict[str, Any]:
    """What a folder says that `compare` or `extract` wrote, by the fields of `ReportResult`. Raises FileError."""
    found = _found("report", ReportParameters(os.fsencode(path)))
    return {name: value for name, value in found.items() if name != "pictures"}


def _written(name: str, output: Path, options: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    """Do a job that writes; `options` are those of its parameters and of `Writing`. Raises as the job does."""
    where = {name: options.pop(name) for name in ("force", "check", "dtype", "device") if name in options}
    job = _job(name)
    wanted = job.parameters(writing=Writing(_absolute(output), **where), **inputs, **options)
    try:
        # As they would come from a client: a wrong value is found before the work.
        wanted = job.decoded(msgspec.msgpack.encode(wanted))
    except (msgspec.MsgspecError, TypeError, OverflowError) as error:
        raise UsageError(f"wrong parameters: {error}") from error
    return _found(name, wanted)


def _found(name: str, parameters: msgspec.Struct) -> dict[str, Any]:
    """The result of `_run` by its fields."""
    found: dict[str, Any] = plain(_run(name, parameters))
    return found


def _run(name: str, parameters: msgspec.Struct) -> Any:
    """Do a job in this process. Raises as the job does, and MissingPackage where it lacks a package."""
    with needed(ours(name)):
        return _job(name).run(parameters, _alone())


@cache
def _job(name: str) -> Job[Any, Any]:
    with needed(ours(name)):
        return load(find(name))


def _listed(paths: Path | Sequence[Path]) -> tuple[bytes, ...]:
    return tuple(map(_absolute, [paths] if isinstance(paths, str | bytes | os.PathLike) else paths))


def _absolute(path: Path) -> bytes:
    return os.path.abspath(os.fsencode(path))


def _texts(given: object) -> tuple[Any, ...]:
    """One, or several."""
    return tuple(given) if isinstance(given, list | tuple | set | frozenset) else (given,)


def _alone() -> Alone:
    return Alone(len(os.sched_getaffinity(0)))
