"""The job `metadata`: what a file states, beside what its names and shapes show (SPEC section 7)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

from loracore.adapter import read_adapter
from loracore.errors import FileError
from loracore.jobs.job import Context
from loracore.jobs.metadata import (
    SPEC,
    ArchitectureInfo,
    FileInfo,
    MetadataParameters,
    MetadataResult,
    ModelInfo,
    ValidationInfo,
)
from loracore.time import now_text, rfc3339
from lorakit.facts import described
from lorakit.facts.claims import ALPHAS, RANKS, disagreements
from lorakit.facts.stated import Statements, listed, statements
from lorakit.facts.training import training_info

if TYPE_CHECKING:
    from loracore.adapter import Adapter, Module

_ALGORITHMS = {
    "lora": "LoRA", "locon": "LoCon", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr", "glora": "GLoRA",
    "full": "full difference", "norm": "norm", "oft": "OFT", "ia3": "IA3",
}  # fmt: skip
_TARGETS = 200
T = TypeVar("T")


def run(parameters: MetadataParameters, context: Context) -> MetadataResult:
    """Read the header, the small tensors and PEFT's configuration; with `values`, all tensors.

    Raises:
        FileError: the file cannot be read at all; the error names it.
    """
    context.progress(0, 1)
    with read_adapter(os.fsdecode(parameters.path)) as adapter:
        stated = statements(adapter.metadata, adapter.config, os.fsencode(adapter.path))
        architecture = _architecture(adapter)
        training = training_info(stated, architecture.algorithm)
        model = _model(adapter, stated, architecture)
        result = MetadataResult(
            file_info=_file(adapter.path),
            model_info=model,
            training_info=training,
            architecture_info=architecture,
            validation_info=_validation(
                adapter, stated, _not_finite(adapter, context) if parameters.values else ()
            ),
            extraction_time=now_text("seconds"),
        )
    context.progress(1, 1)
    return result


JOB = SPEC.implemented(run)


def _file(path: str) -> FileInfo:
    status = os.stat(path)
    name = os.fsencode(os.path.basename(path))
    extension = os.path.splitext(name)[1].decode("utf-8", "replace")
    size = round(status.st_size / 1e6, 3)
    return FileInfo(os.fsencode(path), name, status.st_size, size, extension, rfc3339(status.st_mtime, "seconds"))


def _model(adapter: Adapter, stated: Statements, architecture: ArchitectureInfo) -> ModelInfo:
    family = None if adapter.family in ("", "unknown") else adapter.family
    stem = os.path.splitext(os.path.basename(adapter.path))[0]
    arguments = stated.first("ss_network_args")
    return ModelInfo(
        format=adapter.format,
        model_name=described.name(stated) or os.fsencode(stem).decode("utf-8", "backslashreplace"),
        base_model=described.base_model(stated) or family,
        base_model_file=described.base_file(stated),
        base_model_hash=stated.text("ss_new_sd_model_hash", "ss_sd_model_hash"),
        family=family,
        network_rank=architecture.rank,
        network_alpha=architecture.alpha,
        network_module=stated.text("ss_network_module", "peft.peft_type", "ot.peft_type"),
        network_args=arguments if isinstance(arguments, dict) else {},
        author=described.author(stated),
        license=described.licence(stated),
        description=stated.text("modelspec.description", "ssmd_description", "description"),
        all_metadata=_all(adapter, stated),
    )  # fmt: skip


def _all(adapter: Adapter, stated: Statements) -> dict[str, Any]:
    """Every entry, without what was only unfolded from others; PEFT's configuration as one."""
    entries = {
        key: value
        for key, value in stated.values.items()
        if key.partition(".")[0] not in ("peft", "ot", "toolkit", "card")
    }
    configuration = {
        key.removeprefix("peft."): value for key, value in stated.values.items() if key.startswith("peft.")
    }
    return entries | ({"adapter_config": configuration} if adapter.config else {})


def _architecture(adapter: Adapter) -> ArchitectureInfo:
    modules = adapter.modules
    ranks = {module.name: module.rank for module in modules if module.rank is not None}
    alphas = {module.name: module.alpha for module in modules if module.alpha is not None}
    layers = [layer for module in modules for layer in module.layers.values()]
    algorithms = Counter(_ALGORITHMS.get(module.algorithm, module.algorithm) for module in modules)
    return ArchitectureInfo(
        convention=None if adapter.convention in ("", "unknown") else adapter.convention,
        algorithm=" + ".join(name for name, _ in algorithms.most_common()) or None,
        modules=len(modules),
        target_modules=_targets(modules),
        rank=_most(ranks.values()),
        alpha=_most(alphas.values()),
        ranks=ranks if len(set(ranks.values())) > 1 else {},
        alphas=alphas if len(set(alphas.values())) > 1 else {},
        components=dict(Counter(module.component for module in modules).most_common()),
        blocks=len({module.block for module in modules}),
        layers=len(layers),
        parameters=sum(prod(layer.shape) for layer in layers),
        dtypes=dict(Counter(layer.dtype for layer in layers).most_common()),
    )


def _most(values: Iterable[T]) -> T | None:
    """What most have; of equally frequent ones the first."""
    return next((value for value, _ in Counter(values).most_common(1)), None)


def _targets(modules: Sequence[Module]) -> tuple[str, ...]:
    """The last parts of the names, as PEFT's `target_modules` has them, the most frequent first."""
    counts = Counter(_last(module.name.removesuffix(".bias")) for module in modules)
    return tuple(name for name, _ in counts.most_common(_TARGETS))


def _last(name: str) -> str:
    """The last part that is no number, and the numbers behind it: `to_q`, `to_out.0`."""
    parts = name.split(".")
    start = len(parts) - 1
    while start and parts[start].isdecimal():
        start -= 1
    return ".".join(parts[start:])


def _not_finite(adapter: Adapter, context: Context) -> Iterator[str]:
    """A line for each layer of a module that holds NaN or Inf, or whose values cannot be read."""
    from lorakit.modules import matrices, survey  # noqa: PLC0415 - bring numpy

    for done, module in enumerate(adapter.modules):
        context.progress(done, len(adapter.modules), module.name)
        for role, layer in module.layers.items():
            try:
                matrices.finite(layer.name, module.tensor(role))
            except survey.Unfit as unfit:
                yield f"{module.name}: {unfit}"
            except FileError as error:
                yield f"{module.name}: {error.reason}"


def _validation(adapter: Adapter, stated: Statements, not_finite: Iterable[str]) -> ValidationInfo:
    errors: list[str] = []
    warnings: list[str] = []
    for problem in adapter.problems:
        line = problem.line
        (errors if problem.level == "error" else warnings).append(line)
    errors += not_finite
    ranks = [module.rank for module in adapter.modules if module.rank is not None]
    # LoKr's alpha means nothing where its parts are whole, and its trainers write any number.
    alphas = [
        module.alpha for module in adapter.modules if module.alpha is not None and module.algorithm != "lokr"
    ]
    warnings += disagreements(stated, RANKS, "rank", ranks)
    warnings += disagreements(stated, ALPHAS, "alpha", alphas)
    dynamic = [key for key in stated.values if stated.is_dynamic(key)]
    if dynamic:
        warnings.append(f"{listed(dynamic)}: stated as Dynamic; ranks and alphas are read from the modules")
    silent = stated.silent()
    if silent:
        warnings.append(f"{listed(silent)}: stated without a value")
    warnings += dict.fromkeys(stated.notes)
    return ValidationInfo(not errors, tuple(warnings), tuple(errors))
