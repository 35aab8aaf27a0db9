"""`merge`: several LoRAs as one, exactly or to a rank (SPEC section 8)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

from msgspec.structs import replace

from loracore.errors import UsageError
from loracore.jobs.change import Changed, Input, Output
from loracore.jobs.job import Context
from loracore.jobs.merge import SPEC, MergeParameters
from loracore.jobs.results import Fault
from lorakit.jobs.merge import combine, ties
from lorakit.jobs.merge.alignment import Group, aligned, name_of
from lorakit.jobs.merge.combine import Combined
from lorakit.jobs.merge.layout import Assembly, roles, summed
from lorakit.jobs.merge.weights import DENSE, NEAR_ZERO, ranks_of, vanishes, weights_of
from lorakit.lowrank.device import array_module, on_host
from lorakit.modules.factors import Factors
from lorakit.modules.inputs import check_unchanged, checked, counted, described, through
from lorakit.modules.matrices import Opened, opened
from lorakit.output import carried
from lorakit.output.containers import Writer
from lorakit.output.destination import Destination, configured
from lorakit.output.rounding import NAMES
from lorakit.output.stamp import stamp

#: Methods whose ΔW is a sum, in which parts can cancel.
_SUMS = frozenset({"linear", "svd", "pca"})
_NAMED = 5

R = TypeVar("R")


def run(parameters: MergeParameters, context: Context) -> Changed:
    """Raises FileError for no adapter and where nothing can be written, UsageError, and MissingPackage."""
    return checked("merge", parameters.writing, lambda: _merge(parameters, context))


JOB = SPEC.implemented(run)


def _merge(parameters: MergeParameters, context: Context) -> Changed:
    given = parameters.writing
    weights = weights_of(parameters)
    # Factors are too small to be worth the way to a GPU; whole matrices are not.
    xp = array_module("cpu" if given.device == "auto" and parameters.method not in DENSE else given.device)
    with ExitStack() as stack:
        files = [stack.enter_context(opened(path)) for path in parameters.paths]
        read = (*parameters.paths, *(os.fsencode(file.adapter.path) for file in files))
        destination = Destination(given.path, files[0].adapter.convention, force=given.force, inputs=read)
        groups = aligned(files, weights, include=parameters.include, exclude=parameters.exclude)
        ranks = ranks_of(groups, parameters)
        empty = _looked_for(groups, parameters, context) if given.check else frozenset()
        while True:
            left = [group for group in groups if group.label not in empty]
            if not left:
                raise UsageError("nothing is left: the weights cancel, or all of ΔW is zero; give other --weights")
            try:
                found = _Result(files, left, ranks, parameters).changed(context, destination, xp)
            except _Vanished as error:
                # A file's layout stands before its layers: it begins anew without these.
                empty |= error.labels
            else:
                return replace(found, warnings=(*found.warnings, *_dropped(sorted(empty))))


class _Vanished(Exception):
    """Modules of which nothing is left by merging; they are not to be in the result."""

    def __init__(self, labels: frozenset[str]) -> None:
        super().__init__(f"{len(labels)} modules")
        self.labels = labels


class _Result:
    """The file that the groups make."""

    def __init__(
        self,
        files: Sequence[Opened],
        groups: Sequence[Group],
        ranks: Mapping[str, int],
        parameters: MergeParameters,
    ) -> None:
        self._files = files
        self._parameters = parameters
        self._groups = groups
        self._assembly = Assembly(files[0].adapter, groups, ranks, parameters.writing.dtype)

    def changed(self, context: Context, destination: Destination, xp: Any) -> Changed:
        """Write it, unless it is only to be looked at, and tell. Raises FileError and UsageError."""
        writing, assembly = self._parameters.writing, self._assembly
        inputs = self._described(context.threads)
        metadata = stamp(
            "merge",
            inputs,
            output=writing.path,
            ranks=assembly.ranks.values(),
            alphas=[float(rank) for rank in assembly.ranks.values()],
            parameters=_asked(self._parameters),
            carried=carried.metadata(self._files[0].adapter),
            merged=True,
        )
        error, size = None, destination.size(assembly.layers, metadata)
        if not writing.check:
            config = configured(self._files[0].adapter.config, assembly.keys) if destination.is_folder else {}
            with destination.writing(assembly.layers, metadata, config) as writer:
                error = self._write(writer, context, xp)
                check_unchanged(file.adapter for file in self._files)
                writer.finish()
            size = destination.written_size()
        dtypes = {NAMES[layer.dtype] for layer in assembly.layers if math.prod(layer.shape) > 1}
        output = Output(
            path=writing.path,
            container=destination.container,
            layers=len(assembly.layers),
            modules=len(self._groups),
            ranks=counted(assembly.ranks.get(group.label) for group in self._groups),
            dtype=", ".join(sorted(dtypes)),
            bytes=size,
        )
        return Changed(
            operation="merge",
            is_valid=True,
            written=not writing.check,
            inputs=inputs,
            outputs=(output,),
            error=error,
            faults=tuple(fault for file in self._files for fault in _faults(file)),
            warnings=tuple(text for file in self._files for text in _warnings(file)),
            ranks=dict(assembly.ranks),
        )

    def _described(self, threads: int) -> tuple[Input, ...]:
        hashed = not self._parameters.writing.check

        def one(given: tuple[bytes, Opened]) -> Input:
            return described(given[0], given[1].adapter, hashed=hashed)

        with ThreadPoolExecutor(max(1, threads)) as pool:
            return tuple(pool.map(one, zip(self._parameters.paths, self._files, strict=True)))

    def _write(self, writer: Writer, context: Context, xp: Any) -> float | None:
        """‖ΔW - ΔW'‖ / ‖ΔW‖; None where nothing is lost but by rounding. Raises _Vanished."""
        vanished: set[str] = set()

        def work(group: Group) -> tuple[float, float]:
            for one in self._assembly.sums.get(group.label, ()):
                writer.give(one.layer.name, summed(group, one.role))
            where = self._assembly.places.get(group.label)
            if where is None:
                return 0.0, 0.0
            parts, rank = group.parts(), self._assembly.ranks[group.label]
            if _is_dropped(group, parts, self._parameters):
                vanished.add(group.label)
            if vanished:
                return 0.0, 0.0
            found = merged(group, parts, rank, self._parameters, xp).padded(rank)
            for name, values in where.laid(found.outer, found.inner, float(rank)).items():
                writer.give(name, values)
            return found.lost, found.whole

        told = _through(self._groups, work, context)
        if vanished:
            raise _Vanished(frozenset(vanished))
        whole = sum(one for _, one in told.values())
        return float((sum(one for one, _ in told.values()) / whole) ** 0.5) if whole else None


def merged(group: Group, parts: list[Factors], rank: int, parameters: MergeParameters, xp: Any) -> Combined:
    """ΔW of a group by the method that is asked for, to this rank."""
    method, density, weights = parameters.method, parameters.density, group.weights
    if method in DENSE:
        trims = method == "ties"
        thin = ties.trimming(density) if trims else ties.dropping(density, parameters.seed, group.label)
        delta = ties.merged(parts, weights, thin, elects=method != "dare_linear")
        found = combine.sketched(xp.asarray(delta), rank, xp)
        return found._replace(outer=on_host(found.outer), inner=on_host(found.inner))
    if method == "knots":
        return ties.knots(parts, weights, rank, density)
    if method == "pca":
        return combine.principal(parts, weights, rank, xp)
    if method == "linear" and rank == sum(part.rank for part in parts):
        exact = combine.exact(parts, weights)
        whole = exact.squares if parameters.rank is not None else 0.0
        return Combined(exact.outer, exact.inner, 0.0, whole)
    return combine.nearest(parts, weights, rank, xp)


def _looked_for(groups: Sequence[Group], parameters: MergeParameters, context: Context) -> frozenset[str]:
    """Labels of modules of which nothing is left, without merging them."""
    matrices = [group for group in groups if group.is_matrix]
    found = _through(matrices, lambda group: _is_dropped(group, group.parts(), parameters), context)
    return frozenset(label for label, nothing in found.items() if nothing)


def _is_dropped(group: Group, parts: list[Factors], parameters: MergeParameters) -> bool:
    """Whether nothing is left of a module, its biases included."""
    return vanishes(parts, group.weights, summed=parameters.method in _SUMS) and not roles(group)


def _through(groups: Sequence[Group], work: Callable[[Group], R], context: Context) -> dict[str, R]:
    """What `work` makes of each group, by its label."""
    return through(
        groups,
        name=lambda group: group.label,
        files=lambda group: ", ".join(member.file.path for member in group.members),
        weight=lambda group: group.size,
        work=work,
        context=context,
    )


def _dropped(empty: Sequence[str]) -> tuple[str, ...]:
    if not empty:
        return ()
    names = ", ".join(empty[:_NAMED]) + (" …" if len(empty) > _NAMED else "")
    return (
        f"{len(empty):,} modules are left out: what is left of ΔW is zero, "
        f"or below {NEAR_ZERO:g} of its parts: {names}",
    )


def _faults(file: Opened) -> Iterator[Fault]:
    """What could not be read of a file, which is named."""
    name = name_of(file.adapter)
    for fault in file.faults:
        yield Fault(fault.module, f"{name}: {fault.reason}")


def _warnings(file: Opened) -> Iterator[str]:
    name = name_of(file.adapter)
    for text in file.warnings:
        yield f"{name}: {text}"
    loose = sum(1 for _ in carried.loose(file.adapter, None))
    if loose:
        yield f"{name}: {loose:,} layers that belong to no module are left out"


def _asked(parameters: MergeParameters) -> dict[str, Any]:
    """What was asked for, as far as it makes a difference to the weights."""
    usual = MergeParameters((), parameters.writing)
    names = [name for name in parameters.__struct_fields__ if name not in {"paths", "writing"}]
    return {
        name: getattr(parameters, name)
        for name in names
        if name in {"method", "weights"} or getattr(parameters, name) != getattr(usual, name)
    }
