"""The text files of a comparison: `difference.txt`, layer by layer, and `comparison_report.txt`, in short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loracore.jobs.results import Fault
from loracore.paths import shown
from lorakit.difference import documents
from lorakit.difference.journal import Record

_TOP = 20
_RULE = "=" * 80


def difference(
    models: tuple[str, str], threshold: float, records: Mapping[str, Record], faults: Sequence[Fault], total: float
) -> str:
    """`difference.txt`: a header, a block for each layer, and a summary."""
    listed = documents.compared(records)
    lines = [
        _RULE, "Weight differences", _RULE,
        f"Base model:        {models[0]}",
        f"Fine-tuned model:  {models[1]}",
        f"Threshold:         {threshold:g}",
        f"Layers:            {len(listed):,}",
        "Relative diff is ‖fine-tuned - base‖ / ‖base‖; the engines' times are without reading.", "",
    ]  # fmt: skip
    for number, record in enumerate(listed, 1):
        lines += _block(number, record)
    times = [record.seconds for record in listed]
    changed = documents.most_modified(records)
    lines += [
        _RULE, "Summary", _RULE,
        f"Total time:        {total:.3f} s",
        f"Average a layer:   {1e3 * sum(times) / max(1, len(times)):.3f} ms",
        f"Slowest layer:     {_slowest(listed)}",
        f"Layers processed:  {len(listed):,}",
        f"Layers modified:   {len(changed):,}",
        f"Layers left out:   {len(faults):,}",
    ]  # fmt: skip
    lines += [f"  {shown(fault.module)}: {shown(fault.reason)}" for fault in faults]
    lines += ["", f"The {min(_TOP, len(changed))} most modified layers, by relative diff:"]
    lines += _ranking(changed[:_TOP])
    return "\n".join(lines) + "\n"


def report(
    document: Mapping[str, Any], records: Mapping[str, Record], faults: Sequence[Fault], config: Mapping[str, Any]
) -> str:
    """`comparison_report.txt`. `document`: `architecture_comparison.json`."""
    changed = documents.most_modified(records)
    lines = [_RULE, "Comparison of two models", _RULE]
    for title, side in (("Base", "base"), ("Fine-tuned", "finetuned")):
        facts = document[side]
        dtypes = ", ".join(f"{count:,} × {dtype}" for dtype, count in facts["dtypes"].items())
        lines += [
            f"{title}: {facts['path']}",
            f"  {facts['files']:,} files, {facts['layers']:,} layers, {facts['parameters']:,} parameters, "
            f"{facts['bytes'] / 1e9:.3f} GB, {dtypes}",
        ]
    lines += ["", "Architecture: " + ("identical" if document["identical"] else _differences(document))]
    lines += ["Settings: " + ("identical" if config["identical"] else _settings(config)), ""]
    lines += [f"Layers modified: {len(changed):,} of {len(documents.compared(records)):,}"]
    for kind, (count, modified, mean) in documents.by_kind(records).items():
        lines.append(f"  {kind:<14} {modified:>6,} of {count:>6,}   mean relative diff {mean:.3e}")
    lines += ["", *_lora(records), "", f"The {min(_TOP, len(changed))} most modified layers, by relative diff:"]
    lines += _ranking(changed[:_TOP])
    if faults:
        lines += ["", f"Left out: {len(faults):,}"]
        lines += [f"  {shown(fault.module)}: {shown(fault.reason)}" for fault in faults]
    return "\n".join(lines) + "\n"


def _block(number: int, record: Record) -> list[str]:
    numpy, torch = record.numpy_seconds, record.torch_seconds
    ratio = f"{torch / numpy:.2f} ×" if torch and numpy else "–"
    lines = [
        f"[{number}] {shown(record.name)}",
        f"  Shape:          {list(record.shape)}",
        f"  Total time:     {1e3 * record.seconds:.3f} ms",
        f"  Torch time:     {_milliseconds(torch)}",
        f"  NumPy time:     {_milliseconds(numpy)}",
        f"  Speed-up:       {ratio}",
        f"  Mean abs diff:  {record.mean_abs_diff:.6e}",
        f"  Max abs diff:   {record.max_abs_diff:.6e}",
        f"  Relative diff:  {_number(record.relative_diff)}",
        f"  Changed ratio:  {record.changed_ratio:.6f}",
        "",
    ]
    if record.disagreement is not None:
        lines.insert(-1, f"  Engines agree:  to {record.disagreement:.1e}")
    return lines


def _slowest(listed: Sequence[Record]) -> str:
    record = max(listed, key=lambda record: record.seconds, default=None)
    return "–" if record is None else f"{1e3 * record.seconds:.3f} ms ({shown(record.name)})"


def _ranking(records: Sequence[Record]) -> list[str]:
    return [
        f"  {place:>2}. {_number(record.relative_diff)}  changed {record.changed_ratio:7.2%}  {shown(record.name)}"
        for place, record in enumerate(records, 1)
    ]


def _differences(document: Mapping[str, Any]) -> str:
    parts = [
        (len(document["only_in_base"]), "only in the base"),
        (len(document["only_in_finetuned"]), "only in the fine-tuned model"),
        (len(document["shape_mismatches"]), "of another shape"),
        (len(document["dtype_differences"]), "of another dtype"),
        (len(document["not_compared"]), "not compared"),
    ]
    return ", ".join(f"{count:,} layers {what}" for count, what in parts if count)


def _settings(config: Mapping[str, Any]) -> str:
    names = [name for name, one in config["files"].items() if not one["identical"]]
    return f"{', '.join(shown(name) for name in names)} differ (config_comparison.json)"


def _lora(records: Mapping[str, Record]) -> list[str]:
    found = documents.lora_analysis(records)
    if not found["layers_analysed"]:
        return ["As a LoRA: not analysed, or no matrix changed"]
    word = "it looks like one" if found["looks_like_lora"] else "it does not look like one as a whole"
    lines = [
        f"As a LoRA: {word}; {found['layers_like_lora']:,} of {found['layers_analysed']:,} changed matrices do",
        f"  suggested rank {found['suggested_rank']}, modules {', '.join(found['target_modules']) or 'none'}",
    ]
    if found["only_rounding"]:
        lines.append(f"  {len(found['only_rounding']):,} matrices differ by rounding alone")
    if found["other_changes"]:
        lines.append(f"  {len(found['other_changes']):,} other layers changed, which a LoRA does not hold")
    return lines


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1e3 * seconds:.3f} ms"


def _number(value: float | None) -> str:
    return "infinite    " if value is None else f"{value:.6e}"
