"""`loractl compare` and `extract`: what two models differ by, and that as a LoRA."""

from __future__ import annotations

import json

import click

from loracore.jobs.change import Device, Stored, Writing
from loracore.jobs.compare import CompareParameters, CompareResult, Engine, Extraction, Model, Quality
from loracore.jobs.extract import ExtractParameters, ExtractResult
from loracore.jobs.results import plain
from loracore.paths import absolute, shown
from loractl.commands.changing import changes, tell_rest
from loractl.commands.options import Name, RunJob
from loractl.view import tables
from loractl.view.exports import brief
from loractl.view.tables import size

#: Layers that are named where nobody has asked for all.
_TOP = 20

_quality = click.option(
    "--quality", type=click.Choice(["fast", "exact"]), default="fast", show_default=True,
    help="Of the factors: at most about 0.1 % above the optimal error, or the optimum.",
)  # fmt: skip


@click.command()
@changes(output=("DIR", "Into this folder."), dtype="what most of BASE has")
@click.option(
    "--threshold", type=click.FloatRange(0), default=1e-6, show_default=True, metavar="T",
    help="An entry that differs by more is changed.",
)  # fmt: skip
@click.option(
    "--engine", type=click.Choice(["numpy", "torch", "both"]), default="numpy", show_default=True,
    help="What computes; `both` times the two and checks that they agree.",
)  # fmt: skip
@click.option("--no-lora-analysis", is_flag=True, help="Leave the spectra out, which take most of the time.")
@click.option("--lora-rank", type=click.IntRange(1), metavar="N", help="Also what `extract --rank N` writes.")
@_quality
@click.argument("base", type=Name())
@click.argument("finetuned", type=Name())
def compare(
    run: RunJob,
    *,
    as_json: bool,
    base: str,
    finetuned: str,
    output: str,
    force: bool,
    check: bool,
    dtype: Stored | None,
    device: Device,
    threshold: float,
    engine: Engine,
    no_lora_analysis: bool,
    lora_rank: int | None,
    quality: Quality,
) -> None:
    """Compare the weights of BASE and FINETUNED, files or folders of Transformers or diffusers, into a folder.

    \b
    difference.txt                  every layer, and a summary
    weight_differences.json         the same, for programs
    config_comparison.json          settings that differ
    architecture_comparison.json    layers, shapes and dtypes that differ
    lora_analysis.json              whether it is a LoRA, of which modules, and which rank would hold it
    comparison_report.txt           the whole in short; see also `loractl report`

    A layer at a time, in little memory. A run that was killed goes on where it was when it is started again.
    """
    wanted = CompareParameters(
        absolute(base), absolute(finetuned),
        Writing(absolute(output), force=force, check=check, dtype=dtype, device=device),
        threshold=threshold, engine=engine, lora_analysis=not no_lora_analysis,
        lora_rank=lora_rank, quality=quality,
    )  # fmt: skip
    summary = f"{shown(base)} {shown(finetuned)}"
    found = run("compare", wanted, CompareResult, summary=summary)
    if as_json:
        _print_json(found)
    else:
        _show_models(found)
        if found.written:
            _show_layers(found)
    tell_rest(found.faults, found.warnings, "layers")


@click.command()
@changes(output=("DIR", "Into this folder."), dtype="what most of BASE has")
@click.option("--rank", type=click.IntRange(1), required=True, metavar="N", help="Of every module's factors.")
@_quality
@click.argument("base", type=Name())
@click.argument("finetuned", type=Name())
def extract(
    run: RunJob,
    *,
    as_json: bool,
    base: str,
    finetuned: str,
    output: str,
    force: bool,
    check: bool,
    dtype: Stored | None,
    device: Device,
    rank: int,
    quality: Quality,
) -> None:
    """Make a LoRA of what FINETUNED differs from BASE by; files or folders of Transformers or diffusers.

    \b
    extracted_lora_weights.safetensors   the factors, by PEFT's names, or kohya's for a UNet
    lora_metadata.json                   the error of each layer, and what could not be extracted

    For a Transformers model the folder is an adapter folder, which `peft` loads.
    """
    writing = Writing(absolute(output), force=force, check=check, dtype=dtype, device=device)
    wanted = ExtractParameters(absolute(base), absolute(finetuned), rank, writing, quality)
    summary = f"{shown(base)} {shown(finetuned)}"
    found = run("extract", wanted, ExtractResult, summary=summary)
    if as_json:
        _print_json(found)
    else:
        _show_models(found)
        if found.extraction is not None:
            _say(found)
            _show_extraction(found.extraction)
    left_out = found.extraction.faults if found.extraction is not None else ()
    tell_rest((*found.faults, *left_out), found.warnings, "layers")


def _print_json(found: CompareResult | ExtractResult) -> None:
    print(json.dumps(plain(found)), flush=True)


def _show_models(found: CompareResult | ExtractResult) -> None:
    columns = [
        tables.Column(""), tables.Column("model", folds=True), tables.Column("files", right=True),
        tables.Column("layers", right=True), tables.Column("parameters", right=True),
        tables.Column("size", right=True), tables.Column("dtype"),
    ]  # fmt: skip
    rows = [_model_row("base", found.base), _model_row("fine-tuned", found.finetuned)]
    tables.show_table(columns, rows)
    if not found.written:
        click.echo(f"{found.layers:,} layers can be compared", err=True)


def _model_row(word: str, model: Model) -> tuple[str, ...]:
    counts = [f"{number:,}" for number in (model.files, model.layers, model.parameters)]
    return (word, shown(model.path), *counts, size(model.size), ", ".join(model.dtypes))


def _show_layers(found: CompareResult) -> None:
    if found.most_modified:
        click.echo("")
        columns = [tables.Column("layer", folds=True)] + [
            tables.Column(name, right=True) for name in ("mean", "max", "relative", "changed")
        ]
        rows = [
            (
                shown(one.layer), brief(one.mean_abs_diff), brief(one.max_abs_diff), brief(one.relative_diff),
                f"{one.changed_ratio:.1%}",
            )
            for one in found.most_modified
        ]  # fmt: skip
        tables.show_table(columns, rows, title="The most modified layers, by their relative difference")
    _say(found)
    if found.looks_like_lora is not None and found.modified:
        word = "looks" if found.looks_like_lora else "does not look"
        names = ", ".join(map(shown, found.target_modules)) or "none"
        click.echo(f"it {word} like a LoRA; suggested rank {found.suggested_rank}, modules {names}", err=True)
    if found.disagreement is not None:
        click.echo(f"numpy and torch agree to {found.disagreement:.1e}", err=True)
    if found.extraction is not None:
        _show_extraction(found.extraction)


def _say(found: CompareResult | ExtractResult) -> None:
    before = f"; {found.resumed:,} layers were finished before" if found.resumed else ""
    text = f"{found.modified:,} of {found.layers:,} layers modified, in {found.seconds:.1f} s{before}"
    click.echo(f"{text}; written: {shown(found.output)}", err=True)


def _show_extraction(found: Extraction) -> None:
    text = f"a LoRA of {found.modules:,} modules, rank {found.rank}, {found.convention}, {found.dtype}"
    click.echo(f"{text}: ‖X - BA‖ / ‖X‖ = {found.error:.3g}", err=True)
