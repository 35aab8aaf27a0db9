"""`convert`: kohya ↔ PEFT ↔ diffusers, another dtype, another container (SPEC section 8)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from loracore.adapter import Adapter
from loracore.adapter.peft import DIFFUSERS_METADATA
from loracore.errors import UsageError
from loracore.jobs.change import Changed, Input, Output, Writing
from loracore.jobs.convert import CONVENTIONS, SPEC, Convention, ConvertParameters
from loracore.jobs.job import Context
from loracore.jobs.results import Fault
from lorakit.jobs.convert.contents import Contents, kept, recasted
from lorakit.modules.inputs import check_unchanged, checked, counted, described
from lorakit.modules.parts import Part, opened_parts
from lorakit.output import peftfolder
from lorakit.output.containers import Writer, container_of, writing
from lorakit.output.draft import refuse_existing
from lorakit.output.folder import refuse_folder
from lorakit.output.rounding import DTYPES, NAMES, Unstorable, refuse_unfinite
from lorakit.output.stamp import stamp

_NAMED = 3
#: Conventions of a file that are one of those that can be asked for.
_SAME: dict[str, Convention] = {**{name: name for name in CONVENTIONS}, "lycoris": "kohya"}
#: What spoke of the layers under the names that they had.
_OF_NAMES = frozenset({DIFFUSERS_METADATA})


def run(parameters: ConvertParameters, context: Context) -> Changed:
    """Raises FileError for what cannot be read or written, and UsageError."""
    return checked("convert", parameters.writing, lambda: _convert(parameters, context))


JOB = SPEC.implemented(run)


def _check(parameters: ConvertParameters) -> None:
    if parameters.to is not None and parameters.to not in CONVENTIONS:
        *others, last = CONVENTIONS
        raise UsageError(f"there is no convention {parameters.to!r}; there are {', '.join(others)} and {last}")
    if parameters.writing.dtype is not None and parameters.writing.dtype not in DTYPES:
        raise UsageError(f"there is no dtype {parameters.writing.dtype!r} here; there are {', '.join(DTYPES)}")
    if parameters.writing.device == "cuda":
        raise UsageError("convert computes next to nothing, and that on the CPU; take --device cpu")


def _convert(parameters: ConvertParameters, context: Context) -> Changed:
    _check(parameters)
    path, folder = parameters.writing.path, _is_folder(parameters)
    with opened_parts(parameters.path) as parts:
        reads = tuple(os.fsencode(part.adapter.path) for part in parts)
        if folder:
            refuse_folder(path, force=parameters.writing.force, kind=peftfolder.KIND, inputs=reads)
        else:
            container_of(path)
            refuse_existing(path, force=parameters.writing.force, inputs=reads)
        contents, faults, warnings = _contents(parameters, parts, folder)
        writes = not parameters.writing.check
        inputs = tuple(_described(parameters.path, part, hashed=writes) for part in parts)
        if writes:
            stamped = [_metadata(parameters, each, parts[0].adapter, inputs) for each in contents]
            try:
                adapters = [part.adapter for part in parts]
                _write(parameters.writing, list(zip(contents, stamped, strict=True)), adapters, folder, context)
            except Unstorable as error:
                raise UsageError(f"{_shown(parts)}: {error}") from error
        outputs = tuple(_output(path, each, folder, written=writes) for each in contents)
    return Changed(
        "convert", True, writes, inputs, outputs, faults=tuple(faults), warnings=tuple(warnings),
    )  # fmt: skip


def _is_folder(parameters: ConvertParameters) -> bool:
    """Whether the result is a PEFT folder."""
    if parameters.to not in (None, "peft"):
        return False
    given = os.path.isdir(parameters.path) or os.path.basename(parameters.path).startswith(b"adapter_model.")
    return peftfolder.is_folder(parameters.writing.path) and (parameters.to == "peft" or given)


def _contents(
    parameters: ConvertParameters, parts: Sequence[Part], folder: bool
) -> tuple[list[Contents], list[Fault], list[str]]:
    dtype = parameters.writing.dtype
    warnings = [problem.line for part in parts for problem in part.adapter.problems if problem.level == "warning"]
    to = parameters.to or _convention(parts)
    if _keeps_names(parameters, parts, folder):
        return [kept(part.adapter, dtype, part.folder if folder else b"") for part in parts], [], warnings
    # Only PEFT's folders and diffusers' headers have a place for the scale beside the weights.
    fold = parameters.fold or (to != "kohya" and not folder and not _has_header(parameters, to))
    if fold and not parameters.fold and any(m.scale != 1 for part in parts for m in part.adapter.modules):
        warnings.append("the scale is in the factors now: there is no place for alpha in such a file")
    if to not in _SAME:
        raise UsageError(
            f"{_shown(parts)}: its names are {to}; say which they shall be: --to {'|'.join(CONVENTIONS)}"
        )
    found, faults = recasted(parts, _SAME[to], dtype=dtype, fold=fold)
    if faults and not parameters.leave_out:
        _refuse(faults, parts)
    if not found:
        raise UsageError(f"{_shown(parts)}: nothing of it has a name in {to}'s convention")
    if len(found) > 1 and not folder:
        names_ = ", ".join(os.fsdecode(each.folder) for each in found)
        raise UsageError(
            f"{_shown(parts)}: a PEFT file holds the adapter of one model, this is for {names_}; give -o a folder"
        )
    return found, faults, warnings


def _has_header(parameters: ConvertParameters, to: str) -> bool:
    return to == "diffusers" and container_of(parameters.writing.path) == "safetensors"


def _convention(parts: Sequence[Part]) -> str:
    found = {str(_SAME.get(part.adapter.convention, part.adapter.convention)) for part in parts}
    return found.pop() if len(found) == 1 else "mixed"


def _keeps_names(parameters: ConvertParameters, parts: Sequence[Part], folder: bool) -> bool:
    """Whether all layers stay what they are, but for dtype and container."""
    convention = _convention(parts)
    if parameters.to not in (None, convention) or parameters.fold:
        return False
    if any(part.adapter.config for part in parts):
        return folder
    if parameters.to is not None and convention == "peft":
        # Without a configuration its scale is 1, which a folder has to state.
        return not folder
    stated = any(DIFFUSERS_METADATA in part.adapter.metadata for part in parts)
    safe = folder or container_of(parameters.writing.path) == "safetensors"
    return parameters.to != "diffusers" and (safe or not stated)


def _refuse(faults: Sequence[Fault], parts: Sequence[Part]) -> None:
    named = "; ".join(f"{fault.module[:100]}: {fault.reason}" for fault in faults[:_NAMED])
    more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    raise UsageError(f"{_shown(parts)}: {named}{more} (--leave-out goes on without them)")


def _shown(parts: Sequence[Part]) -> str:
    return parts[0].adapter.path


def _described(path: bytes, part: Part, *, hashed: bool) -> Input:
    return described(os.fsencode(part.adapter.path) if part.component else path, part.adapter, hashed=hashed)


def _write(
    wanted: Writing,
    stamped: Sequence[tuple[Contents, Mapping[str, str]]],
    adapters: Sequence[Adapter],
    folder: bool,
    context: Context,
) -> None:
    total = float(sum(layer.nbytes for each, _ in stamped for layer in each.tensors))
    done = 0.0
    if not folder:
        contents, metadata = stamped[0]
        with writing(wanted.path, contents.layers, metadata, force=wanted.force) as writer:
            _fill(writer, contents, done, total, context)
            check_unchanged(adapters)
            writer.finish()
        return
    with peftfolder.writing_folder(wanted.path, force=wanted.force) as made:
        for each, metadata in stamped:
            writer = made.add(each.layers, metadata, each.config or {}, each.folder)
            done = _fill(writer, each, done, total, context)
        check_unchanged(adapters)
        made.finish()


def _fill(writer: Writer, contents: Contents, done: float, total: float, context: Context) -> float:
    """Give the writer all layers. Returns how many bytes are done then."""
    for layer, tensor in contents.tensors.items():
        if tensor.stored is not None and layer.dtype == tensor.dtype:
            data = tensor.stored()
            refuse_unfinite(data, layer.dtype, layer.name)
            writer.give_bytes(layer.name, data)
        else:
            writer.give(layer.name, tensor.values())
        done += layer.nbytes
        context.progress(done, total, layer.name)
    return done


def _metadata(
    parameters: ConvertParameters, contents: Contents, adapter: Adapter, inputs: Sequence[Input]
) -> dict[str, str]:
    told = {"to": parameters.to, "dtype": parameters.writing.dtype, "fold": parameters.fold}
    made = stamp(
        "convert", inputs, output=parameters.writing.path, ranks=contents.ranks, alphas=contents.alphas,
        parameters={key: value for key, value in told.items() if value},
        carried={
            key: value for key, value in adapter.metadata.items() if contents.keeps_names or key not in _OF_NAMES
        },
    )  # fmt: skip
    return made | {"format": "pt"} | dict(contents.metadata)


def _output(path: bytes, contents: Contents, folder: bool, *, written: bool) -> Output:
    place = os.path.join(path, contents.folder, peftfolder.WEIGHTS) if folder else path
    dtypes = sorted({layer.dtype for layer in contents.tensors if layer.shape})
    return Output(
        path=place,
        container="peft" if folder else container_of(path),
        layers=len(contents.tensors),
        modules=len(contents.ranks),
        ranks=counted(contents.ranks),
        dtype=", ".join(NAMES.get(dtype, dtype) for dtype in dtypes),
        bytes=os.path.getsize(place) if written else None,
    )
