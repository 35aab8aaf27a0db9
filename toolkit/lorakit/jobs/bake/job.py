"""`bake`: LoRAs merged into a base model, shard by shard (SPEC section 8)."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from numpy.typing import NDArray

from loracore.adapter import Adapter
from loracore.errors import FileError, MalformedFile, UsageError
from loracore.jobs.bake import SPEC, BakeParameters
from loracore.jobs.change import Changed, Input
from loracore.jobs.change import Output as Told
from loracore.jobs.job import Context
from loracore.jobs.results import Fault
from loracore.paths import shown
from lorakit.jobs.bake.base import Base, files_beside, opened_base
from lorakit.jobs.bake.merging import merge_group
from lorakit.jobs.bake.output import Output, refuse_output, writing_model
from lorakit.jobs.bake.plan import Change, Group, Lora, changes_of, grouped, opened_loras
from lorakit.jobs.bake.recasting import recast
from lorakit.models.shards import Hashed, hashed
from lorakit.modules.factors import unfinite
from lorakit.modules.inputs import check_unchanged, checked, described
from lorakit.modules.survey import one_blas_thread
from lorakit.output.rounding import NAMES, Unstorable
from lorakit.output.stamp import stamp

_NAMED = 3
#: Of the keys that say how a LoRA was made, those that are true of a model too.
_KEPT = ("lorad.", "modelspec.merged_from", "modelspec.date")


def run(parameters: BakeParameters, context: Context) -> Changed:
    """Raises FileError for what cannot be read or written, and UsageError."""
    return checked("bake", parameters.writing, lambda: _bake(parameters, context))


JOB = SPEC.implemented(run)


def _bake(parameters: BakeParameters, context: Context) -> Changed:
    _check(parameters)
    writing = parameters.writing
    with (
        opened_base(parameters.base) as base,
        opened_loras(parameters.paths, parameters.weights) as loras,
    ):
        read = tuple(os.fsencode(part.adapter.path) for lora in loras for part in lora.parts)
        refuse_output(writing.path, base, force=writing.force, inputs=(*parameters.paths, *read))
        changes, faults = _planned(loras, base, leave_out=parameters.leave_out)
        groups = grouped(changes)
        inputs = _inputs(loras, hashed=not writing.check)
        if not writing.check:
            adapters = [part.adapter for lora in loras for part in lora.parts]
            _write(parameters, base, groups, inputs, adapters, context=context)
        return Changed(
            "bake", True, not writing.check, inputs, (_told(parameters, base, changes),),
            faults=tuple(faults), warnings=_warnings(loras, base),
        )  # fmt: skip


def _check(parameters: BakeParameters) -> None:
    if not parameters.paths:
        raise UsageError("no LoRA to bake; give at least one")
    if parameters.weights and len(parameters.weights) != len(parameters.paths):
        raise UsageError(f"{len(parameters.weights)} weights for {len(parameters.paths)} LoRAs; give one for each")
    if not all(map(math.isfinite, parameters.weights)):
        raise UsageError("a weight is not finite; give numbers, as in 0.7,0.3")
    if parameters.writing.device == "cuda":
        raise UsageError("bake computes on the CPU, which waits for the disk; take --device cpu")


def _planned(loras: Sequence[Lora], base: Base, *, leave_out: bool) -> tuple[list[Change], list[Fault]]:
    changes: list[Change] = []
    faults: list[Fault] = []
    for lora in loras:
        found, wrong = changes_of(lora, base)
        if wrong and not leave_out:
            named = "; ".join(f"{fault.module[:100]}: {fault.reason}" for fault in wrong[:_NAMED])
            more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            raise UsageError(
                f"{os.fsdecode(lora.path)}: {len(wrong)} of its {len(lora.modules)} modules cannot be merged into "
                f"{os.fsdecode(base.path)}: {named}{more} (--leave-out goes on without them)"
            )
        if not found:
            raise UsageError(f"{os.fsdecode(lora.path)}: nothing of it fits {os.fsdecode(base.path)}")
        changes += found
        faults += wrong
    return changes, faults


def _inputs(loras: Sequence[Lora], *, hashed: bool) -> tuple[Input, ...]:
    return tuple(
        described(os.fsencode(part.adapter.path) if part.component else lora.path, part.adapter, hashed=hashed)
        for lora in loras
        for part in lora.parts
    )


def _warnings(loras: Sequence[Lora], base: Base) -> tuple[str, ...]:
    found = [*base.warnings]
    found += [
        each.line
        for lora in loras
        for part in lora.parts
        for each in part.adapter.problems
        if each.level == "warning"
    ]
    if base.is_folder and (left := files_beside(base)[1]):
        names = ", ".join(shown(name) for name in left[:_NAMED])
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        found.append(f"not in the result, for they hold the old weights: {names}{more}")
    return tuple(found)


def _write(
    parameters: BakeParameters,
    base: Base,
    groups: Sequence[Group],
    inputs: Sequence[Input],
    adapters: Sequence[Adapter],
    *,
    context: Context,
) -> None:
    changed: list[set[str]] = [set() for _ in base.files]
    for group in groups:
        for component, name in group.layers:
            changed[base.layers[component][name].file].add(name)
    layers = sum(file.reader.container.layout.nbytes for file in base.files)
    files = [(os.fsencode(file.reader.shown), file.reader.source) for file in base.files]
    progress = _Progress(context, float(layers + sum(source.size for _, source in files)))
    read = hashed(base.path, files, context, progress.add)
    with writing_model(
        parameters.writing.path, base, [frozenset(names) for names in changed],
        _stamp(parameters, base, inputs, read),
        force=parameters.writing.force, dtype=parameters.writing.dtype, told=lambda _: progress.add(0),
    ) as output:  # fmt: skip
        steps = [_merging(group, base, output) for group in groups]
        steps += [step for file in output.files for step in file.rest]
        _work(steps, progress, context.threads)
        base.check_unchanged()
        check_unchanged(adapters)
        output.finish()


class _Progress:
    """Bytes that are done, told in the thread that may be told to end."""

    def __init__(self, context: Context, total: float) -> None:
        self._context = context
        self._total = total
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        self._context.progress(self._done, self._total)


def _merging(group: Group, base: Base, output: Output) -> Callable[[], int]:
    def give(component: str, name: str, start: int, values: NDArray[Any]) -> None:
        output.files[base.layers[component][name].file].give(name, start, values)

    def merge() -> int:
        try:
            merge_group(group, base, give)
        except Unstorable as error:
            for module in (change.module for change in group.changes):
                if text := unfinite(module):
                    raise MalformedFile(text, module.file) from error
            raise UsageError(f"{os.fsdecode(base.path)}: {error}") from error
        return sum(base.layers[component][name].layer.nbytes for component, name in group.layers)

    return merge


def _work(steps: Sequence[Callable[[], int]], progress: _Progress, threads: int) -> None:
    """Do all steps on a few threads. The first error ends it."""
    ended = threading.Event()

    def one(step: Callable[[], int]) -> int:
        return 0 if ended.is_set() else step()

    with one_blas_thread(), ThreadPoolExecutor(max(1, threads)) as pool:
        running = [pool.submit(one, step) for step in steps]
        try:
            for future in as_completed(running):
                progress.add(future.result())
        except BaseException:
            ended.set()
            pool.shutdown(cancel_futures=True)
            raise


def _stamp(
    parameters: BakeParameters, base: Base, inputs: Sequence[Input], read: Sequence[Hashed]
) -> dict[str, str]:
    told = {"base": shown(os.path.basename(os.path.normpath(base.path)))}
    if parameters.weights:
        told["weights"] = ", ".join(f"{weight:g}" for weight in parameters.weights)
    made = stamp(
        "bake",
        inputs,
        output=parameters.writing.path,
        ranks=(),
        alphas=(),
        parameters=told,
        merged=True,
        models=read,
    )
    return {key: value for key, value in made.items() if key.startswith(_KEPT)}


def _told(parameters: BakeParameters, base: Base, changes: Sequence[Change]) -> Told:
    path = parameters.writing.path
    written = [recast(file.reader.layers, parameters.writing.dtype) for file in base.files]
    dtypes = sorted({layer.dtype for layers in written for layer in layers.values()})
    return Told(
        path=path,
        container="folder" if base.is_folder else "safetensors",
        layers=sum(len(file.reader.layers) for file in base.files),
        modules=len({change.rows for change in changes}),
        ranks={},
        dtype=", ".join(NAMES.get(dtype, dtype) for dtype in dtypes),
        bytes=None if parameters.writing.check else _size(path),
    )


def _size(path: bytes) -> int:
    try:
        if not os.path.isdir(path):
            return os.path.getsize(path)
        return sum(
            os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names
        )
    except OSError as error:
        raise FileError(f"it vanished: {error.strerror}", os.fsdecode(path)) from error
