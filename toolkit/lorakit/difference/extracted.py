"""The factors of all layers as a file that others load: PEFT's names, or kohya's for a UNet and its text encoders.

Beside it, for a Transformers model, `adapter_config.json` and the same file as `adapter_model.safetensors`: the
folder is an adapter folder that `peft` loads.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loracore.jobs.change import Stored
from loracore.jobs.results import Fault
from loracore.names import canonical, conventions
from loracore.names.conventions.peft import PEFT_PREFIX
from loracore.paths import shown
from loracore.tensorfile import Layer
from loracore.tensorfile.peft import CONFIG
from lorakit.difference import configs, documents, pairs
from lorakit.difference import folder as place
from lorakit.difference.journal import Journal, Record
from lorakit.models.shards import Hashed
from lorakit.models.weights import Weights
from lorakit.output import peftfolder
from lorakit.output.containers import writing
from lorakit.output.draft import cannot
from lorakit.output.rounding import DTYPES
from lorakit.output.stamp import stamp

WEIGHTS, METADATA = b"extracted_lora_weights.safetensors", "lora_metadata.json"
#: Transformers' Conv1D keeps its weight as inputs × outputs; these models are made of it.
_TRANSPOSED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
_KOHYA = frozenset({"unet", "te1", "te2", "te3"})


class Module(NamedTuple):
    """A layer that is written: the names of its tensors, and whether its matrix is kept the other way round."""

    record: Record
    down: str
    up: str
    alpha: str
    transposed: bool

    @property
    def rank(self) -> int:
        assert self.record.factors is not None
        return self.record.factors.rank


class Written(NamedTuple):
    """What became of the extraction. `error`: ‖X - BA‖ / ‖X‖ over all modules."""

    modules: int
    convention: str
    dtype: str
    error: float
    faults: tuple[Fault, ...]
    files: tuple[bytes, ...]


def write(
    folder: bytes, models: tuple[Weights, Weights], records: Mapping[str, Record], journal: Journal,
    *, rank: int, dtype: Stored, quality: str, read: Sequence[Hashed],
) -> Written:  # fmt: skip
    """Write the factors and what is to be known of them into `folder`. Raises FileError and UsageError.

    `read`: the files of both models.
    """
    listed, convention, nameless = _modules(models[0], records)
    faults = (*_faults(records), *nameless)
    target = os.path.join(folder, WEIGHTS)
    metadata = stamp(
        "extract", (), output=target,
        ranks=[each.rank for each in listed], alphas=[float(each.rank) for each in listed],
        parameters={"rank": rank, "quality": quality, "base": _name(models[0]), "finetuned": _name(models[1])},
        models=read,
    )  # fmt: skip
    layers = [layer for each in listed for layer in _layers(each, DTYPES[dtype])]
    with writing(target, layers, {"format": "pt", **metadata}, force=True) as writer:
        for each in listed:
            for name, values in _values(each, journal).items():
                writer.give(name, values)
        writer.finish()
    files = [target]
    if convention == "peft" and listed:
        files += _adapter(folder, models[0], listed)
    document = _document(
        models, records, listed, faults, rank=rank, dtype=dtype, quality=quality, convention=convention
    ) | {"inputs": [each._asdict() for each in read]}
    place.write_json(folder, METADATA, document)
    error = document["error"]
    return Written(
        len(listed), convention, dtype, error, faults, (*files, os.path.join(folder, METADATA.encode()))
    )


def _modules(base: Weights, records: Mapping[str, Record]) -> tuple[list[Module], str, list[Fault]]:
    """What is written, by names of which convention; and what has no name there."""
    factored = [record for record in records.values() if record.factors is not None and not _is_rounding(record)]
    named = {record.name: _canonical(pairs.stem(record.name)) for record in factored}
    parts = {component for component, _ in named.values()}
    if not _is_diffusion(base, parts):
        turned = configs.model_type(base) in _TRANSPOSED
        return [_peft(record, transposed=turned) for record in factored], "peft", []
    convention = "kohya" if parts & _KOHYA else "diffusers"
    large = "te2" in parts or any("add_embedding" in name or "label_emb" in name for name in base.tensors)
    family = "sdxl" if large else "unknown"
    listed, faults = [], []
    for record in factored:
        try:
            listed.append(_diffusion(record, *named[record.name], convention, family))
        except conventions.Nameless as error:
            faults.append(Fault(record.name, f"changed, but {error}"))
    return listed, convention, faults


def _is_diffusion(base: Weights, parts: set[str]) -> bool:
    """A UNet or a text encoder by its names, or a transformer where diffusers' configuration says so."""
    if configs.setting(base, "model_type"):
        return False
    by_diffusers = bool(configs.setting(base, "_class_name")) or "transformer" in base.components
    return bool(parts & _KOHYA) or ("transformer" in parts and by_diffusers)


def _canonical(name: str) -> tuple[str, str]:
    component, inner, _ = canonical.split_stem(name, False)
    return canonical.canonical(component, inner)


def _peft(record: Record, *, transposed: bool) -> Module:
    stem = PEFT_PREFIX + pairs.stem(record.name)
    turned = transposed and len(record.shape) == 2 and stem.rpartition(".")[2].startswith("c_")
    return Module(record, f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", "", turned)


def _diffusion(record: Record, component: str, name: str, convention: str, family: str) -> Module:
    stem = conventions.key_of(convention, component, name, family)
    down, up = (stem + conventions.suffix_of(convention, role, component) for role in ("down", "up"))
    has_alpha = conventions.naming(convention).has("alpha", component)
    alpha = stem + conventions.suffix_of(convention, "alpha", component) if has_alpha else ""
    return Module(record, down, up, alpha, False)


def _layers(each: Module, dtype: str) -> list[Layer]:
    outer, inner = _shapes(each)
    found = [Layer(each.down, dtype, inner), Layer(each.up, dtype, outer)]
    return [*found, Layer(each.alpha, dtype, ())] if each.alpha else found


def _shapes(each: Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of up and down: a convolution's kernel stays with down."""
    outputs, *inputs = each.record.shape[::-1] if each.transposed else each.record.shape
    ones = (1,) * (len(inputs) - 1)
    return (outputs, each.rank, *ones), (each.rank, *inputs)


def _values(each: Module, journal: Journal) -> dict[str, NDArray[Any]]:
    outer, inner = journal.factors(each.record)
    if each.transposed:
        outer, inner = inner.T, outer.T
    up, down = _shapes(each)
    found: dict[str, NDArray[Any]] = {each.down: inner.reshape(down), each.up: outer.reshape(up)}
    if each.alpha:
        # alpha / rank = 1: the scale is in the factors.
        found[each.alpha] = np.array(each.rank, np.float32)
    return found


def _adapter(folder: bytes, base: Weights, listed: Sequence[Module]) -> list[bytes]:
    scaled = [peftfolder.Scaled(pairs.stem(each.record.name), each.rank, float(each.rank)) for each in listed]
    config = peftfolder.lora_config(
        scaled, base=os.fsdecode(base.path), fan_in_fan_out=any(each.transposed for each in listed)
    )
    place.write_text(folder, os.fsdecode(CONFIG), peftfolder.encoded(config).decode())
    link = os.path.join(folder, peftfolder.WEIGHTS)
    temporary = os.path.join(folder, b".lorad-%s.tmp" % secrets.token_hex(8).encode())
    try:
        try:
            os.link(os.path.join(folder, WEIGHTS), temporary)
        except OSError:
            # A file system without hard links.
            shutil.copyfile(os.path.join(folder, WEIGHTS), temporary)
        os.replace(temporary, link)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise cannot(link, error) from error
    return [link, os.path.join(folder, CONFIG)]


def _document(
    models: tuple[Weights, Weights], records: Mapping[str, Record], listed: Sequence[Module],
    faults: Sequence[Fault], *, rank: int, dtype: str, quality: str, convention: str,
) -> dict[str, Any]:  # fmt: skip
    energy = left = 0.0
    layers = {}
    for each in listed:
        factors, spectrum = each.record.factors, each.record.spectrum
        assert factors is not None
        assert spectrum is not None
        energy += spectrum.energy
        left += spectrum.energy * (1 - factors.energy)
        layers[each.record.name] = {
            "rank": factors.rank, "error": factors.error, "energy_captured": factors.energy,
            "exact": factors.exact,
            "frobenius_norm": spectrum.energy**0.5, "shape": each.record.shape, "down": each.down, "up": each.up,
        }  # fmt: skip
    return {
        "base_model": shown(models[0].path),
        "finetuned_model": shown(models[1].path),
        "rank": rank,
        "alpha": rank,
        "dtype": dtype,
        "quality": quality,
        "convention": convention,
        "error": (left / energy) ** 0.5 if energy else 0.0,
        "energy_captured": 1 - left / energy if energy else 1.0,
        "target_modules": sorted({pairs.stem(each.record.name).rpartition(".")[2] for each in listed}),
        "layers": layers,
        "not_extracted": {fault.module: fault.reason for fault in faults},
        "unchanged_layers": sum(record.max_abs_diff == 0 and not record.fault for record in records.values()),
    }


def _faults(records: Mapping[str, Record]) -> tuple[Fault, ...]:
    found = [Fault(one.name, f"changed, but {one.left_out}") for one in records.values() if one.left_out]
    found += [
        Fault(one.name, "it differs by rounding alone: no factors are made of it")
        for one in records.values()
        if one.factors is not None and _is_rounding(one)
    ]
    return tuple(found)


def _is_rounding(record: Record) -> bool:
    found = documents.verdicts({record.name: record}).get(record.name)
    return found is not None and found.only_rounding


def _name(model: Weights) -> str:
    return shown(os.path.basename(model.path.rstrip(b"/")))
