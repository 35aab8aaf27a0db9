"""`merge`: several LoRAs as one, exactly or to a rank (SPEC section 8)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from msgspec.structs import replace

from loracore.errors import UsageError
from loracore.jobs.change import Changed, Input, Output
from loracore.jobs.faults import Fault
from loracore.jobs.frame import Context, Job
from loracore.jobs.merge import MergeParameters
from loracore.paths import shown
from lorakit.analysis.matrices import Opened, opened
from lorakit.change import carrying, combining, election, knots, sketching
from lorakit.change.alignment import Group, aligned
from lorakit.change.assembly import Assembly
from lorakit.change.combining import Combined
from lorakit.change.destination import Destination, configured
from lorakit.change.device import array_module, on_host
from lorakit.change.inputs import Stage, checked, counted, described, through
from lorakit.change.probing import NEAR_ZERO, vanishes
from lorakit.change.sums import summed
from lorakit.change.weighing import DENSE, own_rank, ranks_of, weights_of
from lorakit.output.containers import Writer
from lorakit.output.rounding import NAMES
from lorakit.output.stamp import stamp

#: Methods whose ΔW is a sum, in which parts can cancel.
_SUMS = frozenset({"linear", "svd", "pca"})
_NAMED = 5
#: What share of the time the first look at all modules takes.
_LOOK = 0.2


def run(parameters: MergeParameters, context: Context) -> Changed:
    """Raises FileError for no adapter and where nothing can be written, UsageError, and MissingPackage."""
    return checked("merge", parameters.writing, lambda: _merge(parameters, context))


JOB = Job("merge", MergeParameters, Changed, run)


def _merge(parameters: MergeParameters, context: Context) -> Changed:
    given = parameters.writing
    weights = weights_of(parameters)
    xp = array_module(given.device)
    with ExitStack() as stack:
        files = [stack.enter_context(opened(path)) for path in parameters.paths]
        read = (*parameters.paths, *(os.fsencode(file.adapter.path) for file in files))
        destination = Destination(given.path, files[0].adapter.convention, force=given.force, inputs=read)
        groups = aligned(files, weights, include=parameters.include, exclude=parameters.exclude)
        ranks = ranks_of(groups, parameters)
        empty = _empty(groups, parameters, Stage(context, 0, _LOOK))
        left = [group for group in groups if group.label not in empty]
        result = _Result(files, left, ranks, parameters)
        found = result.changed(Stage(context, _LOOK, 1), destination, xp)
        return replace(found, warnings=(*found.warnings, *_dropped(empty)))


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
            carried=carrying.metadata(self._files[0].adapter),
            merged=True,
        )
        error, size = None, destination.size(assembly.layers, metadata)
        if not writing.check:
            config = configured(self._files[0].adapter.config, assembly.keys) if destination.is_folder else {}
            with destination.writing(assembly.layers, metadata, config) as writer:
                error = self._write(writer, context, xp)
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
        """‖ΔW - ΔW'‖ / ‖ΔW‖; None where nothing is lost but by rounding."""

        def work(group: Group) -> tuple[float, float]:
            for one in self._assembly.sums.get(group.label, ()):
                writer.give(one.layer.name, summed(group, one.role))
            where = self._assembly.places.get(group.label)
            if where is None:
                return 0.0, 0.0
            rank = self._assembly.ranks[group.label]
            found = merged(group, rank, self._parameters, xp).padded(rank)
            for name, values in where.laid(found.outer, found.inner, float(rank)).items():
                writer.give(name, values)
            return found.lost, found.whole

        told = through(
            self._groups,
            name=lambda group: group.label,
            weight=lambda group: group.size,
            work=work,
            context=context,
        )
        whole = sum(one for _, one in told.values())
        return float((sum(one for one, _ in told.values()) / whole) ** 0.5) if whole else None


def merged(group: Group, rank: int, parameters: MergeParameters, xp: Any) -> Combined:
    """ΔW of a group by the method that is asked for, to this rank. Raises MalformedFile and FileError."""
    method = parameters.method
    if method in DENSE:
        delta = election.merged(group, method, parameters.density, parameters.seed)
        found = sketching.nearest(xp.asarray(delta), rank, xp)
        return found._replace(outer=on_host(found.outer), inner=on_host(found.inner))
    if method == "knots":
        return knots.merged(group, rank, parameters.density)
    if method == "pca":
        return combining.principal(group, rank, xp)
    ranks = [own_rank(member.module) for member in group.members]
    if method == "linear" and None not in ranks and rank == sum(found for found in ranks if found is not None):
        exact = combining.exact(group)
        whole = exact.squares if parameters.rank is not None else 0.0
        return Combined(exact.outer, exact.inner, 0.0, whole)
    return combining.nearest(group, rank, xp)


def _empty(groups: Sequence[Group], parameters: MergeParameters, context: Context) -> list[str]:
    """Labels of modules of which nothing is left. Raises UsageError where that is so of all."""
    added = parameters.method in _SUMS
    matrices = [group for group in groups if group.is_matrix]
    found = through(
        matrices,
        name=lambda group: group.label,
        weight=lambda group: group.size,
        work=lambda group: vanishes(group, summed=added),
        context=context,
    )
    empty = [label for label, nothing in found.items() if nothing]
    if empty and len(empty) == len(groups):
        raise UsageError("nothing is left: the weights cancel, or all of ΔW is zero; give other --weights")
    return empty


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
    name = shown(os.path.basename(os.fsencode(file.adapter.path)))
    for fault in file.faults:
        yield Fault(fault.module, f"{name}: {fault.reason}")


def _warnings(file: Opened) -> Iterator[str]:
    name = shown(os.path.basename(os.fsencode(file.adapter.path)))
    for text in file.warnings:
        yield f"{name}: {text}"
    loose = sum(1 for _ in carrying.loose(file.adapter, None))
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
