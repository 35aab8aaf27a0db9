"""The JSON files of a comparison, with the fields of SPEC section 8."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from loracore.paths import shown
from lorakit.difference import pairs, verdict
from lorakit.difference.journal import Record
from lorakit.difference.pairs import Paired
from lorakit.difference.verdict import Verdict
from lorakit.models.weights import Weights

#: What of the layers that can be a LoRA has to look like one, for the whole to look so.
_MOST = 0.9


def most_modified(records: Mapping[str, Record]) -> list[Record]:
    """Modified layers: those that were zero, then by relative difference, the greatest first."""
    changed = [record for record in records.values() if record.modified]
    return sorted(changed, key=lambda one: (one.relative_diff is not None, -(one.relative_diff or 0), one.name))


def compared(records: Mapping[str, Record]) -> list[Record]:
    return [record for record in records.values() if not record.fault]


def weight_differences(records: Mapping[str, Record], total: float) -> dict[str, Any]:
    """`weight_differences.json`. `total`: seconds in all."""
    listed = compared(records)
    times = {record.name: record.seconds for record in listed}
    return {
        "modified_layers": [record.name for record in most_modified(records)],
        "all_differences": {
            record.name: {
                "mean_abs_diff": record.mean_abs_diff,
                "max_abs_diff": record.max_abs_diff,
                "relative_diff": record.relative_diff,
                "changed_ratio": record.changed_ratio,
                "shape": record.shape,
            }
            for record in listed
        },
        "performance": {
            "total_time": total,
            "avg_layer_time": sum(times.values()) / len(times) if times else 0.0,
            "max_layer_time": max(times.values(), default=0.0),
            "layer_times": times,
        },
    }


def architecture(models: tuple[Weights, Weights], paired: Paired, records: Mapping[str, Record]) -> dict[str, Any]:
    """`architecture_comparison.json`."""
    dtypes = {
        one.name: {"base": one.base.dtype, "finetuned": one.finetuned.dtype}
        for one in paired.pairs
        if one.base.dtype != one.finetuned.dtype
    }
    faults = {fault.module: fault.reason for fault in paired.faults}
    faults |= {record.name: record.fault for record in records.values() if record.fault}
    return {
        "identical": not (dtypes or faults or paired.only_base or paired.only_finetuned or paired.mismatched),
        "base": _facts(models[0]),
        "finetuned": _facts(models[1]),
        "common_layers": len(paired.pairs) + len(paired.mismatched),
        "only_in_base": paired.only_base,
        "only_in_finetuned": paired.only_finetuned,
        "shape_mismatches": {
            one.name: {"base": one.base.shape, "finetuned": one.finetuned.shape} for one in paired.mismatched
        },
        "dtype_differences": dtypes,
        "not_compared": faults,
    }


def _facts(model: Weights) -> dict[str, Any]:
    tensors = model.tensors.values()
    parameters = 0
    for tensor in tensors:
        count = 1
        for side in tensor.shape:
            count *= side
        parameters += count
    return {
        "path": shown(model.path),
        "files": len(model.identities),
        "components": [component for component in model.components if component],
        "layers": len(model.tensors),
        "parameters": parameters,
        "bytes": model.nbytes,
        "dtypes": dict(Counter(tensor.dtype for tensor in tensors)),
    }


def verdicts(records: Mapping[str, Record]) -> dict[str, Verdict]:
    """What the spectra of changed layers say, by name."""
    return {
        name: verdict.judge(record.spectrum) for name, record in records.items() if record.spectrum is not None
    }


def lora_analysis(records: Mapping[str, Record]) -> dict[str, Any]:
    """`lora_analysis.json`."""
    found = verdicts(records)
    like = {name: one for name, one in found.items() if one.looks_like_lora}
    signal = {name: one for name, one in found.items() if not one.only_rounding}
    others = [one for one in most_modified(records) if one.spectrum is None]
    ranks = sorted(one.suggested_rank for one in signal.values())
    targets = Counter(pairs.stem(name).rpartition(".")[2] for name in signal)
    seconds = sum(record.spectrum_seconds or 0.0 for record in records.values())
    return {
        "looks_like_lora": bool(signal) and len(like) >= _MOST * len(signal) and not _moved(others),
        "suggested_rank": ranks[int(_MOST * (len(ranks) - 1) + 0.5)] if ranks else 0,
        "target_modules": sorted(targets),
        "modules_by_name": dict(targets.most_common()),
        "layers_analysed": len(found),
        "layers_like_lora": len(like),
        "only_rounding": sorted(name for name, one in found.items() if one.only_rounding),
        "other_changes": {record.name: record.left_out or "not analysed" for record in others},
        "seconds": seconds,
        "layers": {name: _layer(records[name], one) for name, one in found.items()},
    }


def _moved(others: Sequence[Record]) -> bool:
    """Whether layers changed that a LoRA does not touch; biases and norms it may train along."""
    return any(record.left_out.startswith(("embedding", "stack")) for record in others)


def _layer(record: Record, one: Verdict) -> dict[str, Any]:
    spectrum = record.spectrum
    assert spectrum is not None
    return {
        "module": pairs.stem(record.name),
        "shape": record.shape,
        **msgspec.structs.asdict(one),
        "frobenius_norm": spectrum.energy**0.5,
        "rounding_share": min(1.0, spectrum.floor / spectrum.energy) if spectrum.energy else 0.0,
        "singular_values": spectrum.values[:16],
    }


def by_kind(records: Mapping[str, Record]) -> dict[str, tuple[int, int, float]]:
    """Of each kind of layer: how many were compared, how many modified, and their mean relative difference."""
    of: dict[str, list[Record]] = defaultdict(list)
    for record in compared(records):
        of[pairs.kind_of(record.name, record.shape)].append(record)
    return {
        kind: (
            len(group),
            sum(record.modified for record in group),
            sum(record.relative_diff or 0.0 for record in group) / len(group),
        )
        for kind, group in of.items()
    }
