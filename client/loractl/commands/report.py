"""`loractl report`: a finished comparison on the terminal and as pictures."""

from __future__ import annotations

import json
import os

import click

from loracore.jobs.plot import Format, format_of
from loracore.jobs.report import ReportParameters, ReportResult
from loracore.jobs.results import Table, plain
from loracore.paths import absolute, shown
from loracore.whole import write_whole
from loractl.commands.options import Name, RunJob, runs_job
from loractl.view import tables
from loractl.view.exports import brief

_LAYERS = ("layer", "shape", "mean_abs_diff", "max_abs_diff", "relative_diff", "changed_ratio")
_LORA = ("layer", "effective_rank", "energy_8", "energy_32", "energy_128", "looks_like", "suggested_rank")


@click.command()
@runs_job
@click.option(
    "-o", "--output", type=Name(), metavar="FIGURES",
    help="Draw it: into a .png or .svg, or several of them into a folder.",
)  # fmt: skip
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, metavar="K", help="Rows of a table.")
@click.argument("folder", type=Name(), metavar="DIR")
def report(run: RunJob, *, as_json: bool, folder: str, output: str | None, top: int) -> None:
    """Summarise DIR, which `loractl compare -o` or `loractl extract -o` wrote.

    Totals, what changed by kind and by block, the most modified layers, and what a LoRA would hold of it. --json
    has all layers.
    """
    form, whole = _form(output)
    wanted = ReportParameters(absolute(folder), form, overview=whole)
    found = run("report", wanted, ReportResult, summary=shown(folder))
    written = _write(found, output, form, whole=whole) if output is not None and form is not None else []
    if as_json:
        told = {name: value for name, value in plain(found).items() if name != "pictures"}
        print(json.dumps({**told, "figures": written}), flush=True)
    else:
        _show(found, top)
    for warning in found.warnings:
        click.echo(f"warning: {shown(warning)}", err=True)
    for path in written:
        click.echo(f"written: {shown(path)}", err=True)


def _form(output: str | None) -> tuple[Format | None, bool]:
    """Which pictures, and whether there is one of all."""
    if output is None:
        return None, False
    if os.path.isdir(output) or not os.path.splitext(output)[1]:
        return "png", False
    return format_of(output), True


def _write(found: ReportResult, output: str, form: Format, *, whole: bool) -> list[str]:
    if not whole:
        os.makedirs(output, exist_ok=True)
    paths = []
    for picture in found.pictures:
        path = output if whole else os.path.join(output, f"{picture.name}.{form}")
        write_whole(path, picture.image)
        paths.append(path)
    return paths


def _show(found: ReportResult, top: int) -> None:
    rows = [("base", shown(found.base)), ("fine-tuned", shown(found.finetuned))]
    rows += [(name, brief(value)) for name, value in found.totals.items()]
    tables.show_table([tables.Column(""), tables.Column("", folds=True)], rows)
    _table("By kind of layer", found.kinds, found.kinds.names, top)
    _table("By block", found.blocks, found.blocks.names, top)
    _table("The most modified layers", found.layers, _LAYERS, top)
    _table("As a LoRA", found.lora, _LORA, top)
    _table("Extracted, the worst first", found.factors, found.factors.names, top)


def _table(title: str, table: Table, names: tuple[str, ...], top: int) -> None:
    """Some columns of the first rows; nothing for an empty table."""
    if not len(table):
        return
    chosen = [column for name in names for column in table.columns if column.name == name]
    numbers = [not any(isinstance(cell, str) for cell in column.cells) for column in chosen]
    columns = [
        tables.Column(column.name, right=number, folds=not place)
        for place, (column, number) in enumerate(zip(chosen, numbers, strict=True))
    ]
    click.echo("")
    rows = [[brief(column.cells[index]) for column in chosen] for index in range(min(top, len(table)))]
    tables.show_table(columns, rows, title=title)
    if len(table) > top:
        click.echo(f"… and {len(table) - top:,} more; --top K shows more of them", err=True)
