"""`loractl importance`, `spectrum`, `pca` and `plot`: what is in the weights."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from loracore.jobs.importance import ImportanceParameters, ImportanceResult
from loracore.jobs.pca import PcaParameters, PcaResult
from loracore.jobs.plot import KINDS, PlotParameters, PlotResult, format_of
from loracore.jobs.results import Table, plain
from loracore.jobs.spectrum import SpectrumParameters, SpectrumResult
from loracore.paths import absolute, shown
from loracore.whole import check_place, write_whole
from loractl.commands.changing import tell_rest
from loractl.commands.options import Name, RunJob, runs_job
from loractl.view import analyses, exports, tables
from loractl.view.exports import brief

#: Rows that are shown where nobody has said how many.
_TOP = 20

_output = click.option(
    "-o", "--output", type=Name(dir_okay=False), metavar="FILE",
    help="Write all of it: .json, .csv, .parquet, .txt or .md.",
)  # fmt: skip
_top = click.option("--top", type=click.IntRange(1), metavar="K", help="Only the first K rows.")
_svd_limit = click.option(
    "--svd-limit", type=click.IntRange(1), metavar="N",
    help="No spectrum where it needs a square of more than N rows; a LoRA's has its rank.",
)  # fmt: skip


@click.command()
@runs_job
@_output
@_top
@click.option(
    "--threshold", type=click.FloatRange(0, 1, min_open=True), default=0.9, show_default=True, metavar="T",
    help="Name the smallest set of blocks that holds this share of the importance.",
)  # fmt: skip
@click.option("--sort", default="dW.l2", show_default=True, metavar="COLUMN", help="Numbers: the greatest first.")
@click.option(
    "--by", type=click.Choice(["energy", "softmax"]), default="energy", show_default=True,
    help="A block's importance: its share of ‖ΔW‖², or of the softmax of the spectral norms.",
)  # fmt: skip
@click.option("--singular-values", type=click.IntRange(1), default=8, show_default=True, metavar="N",
              help="How many of the first have columns.")  # fmt: skip
@click.option("--exact", is_flag=True, help="Percentiles by sorting, not to 1e-3 of the standard deviation.")
@click.option("--no-percentiles", is_flag=True, help="Leave percentiles out, which take most of the time.")
@click.option("--no-svd", is_flag=True, help="Leave all that needs singular values out.")
@_svd_limit
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True,
              help="Of ΔW's entries; spectra are in float64 always.")  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.argument("file", type=Name())
def importance(
    run: RunJob,
    as_json: bool,
    file: str,
    output: str | None,
    top: int | None,
    threshold: float,
    sort: str,
    no_percentiles: bool,
    no_svd: bool,
    **options: Any,
) -> None:
    """Statistics of each module's ΔW and both factors in FILE, and what its blocks weigh.

    A terminal shows some columns of the first rows, and the blocks; --json and -o have all columns (and rows, but
    for --top). CSV and Parquet hold the modules.
    """
    if output is not None:
        exports.check_output(output)
    wanted = ImportanceParameters(
        absolute(file), threshold=threshold, percentiles=not no_percentiles, svd=not no_svd, **options
    )
    found = run("importance", wanted, ImportanceResult, summary=shown(file))
    found = analyses.sorted_by(found, sort, top)
    blocks = analyses.blocks_table(found)
    _give(output, as_json, [("Modules", found.modules), ("Blocks", blocks)], lambda: plain(found))
    if not as_json and output is None:
        _show(f"Modules by {sort}; of ΔW:", found.modules, analyses.importance_columns(sort), top)
        click.echo("")
        _show("Blocks", blocks, blocks.names, None, 2 * _TOP)
        click.echo(analyses.covering_line(found), err=True)
    tell_rest(found.faults, found.warnings)


@click.command()
@runs_job
@_output
@_top
@click.option("--sort", metavar="COLUMN", help="Numbers: the greatest first. [default: the file's order]")
@_svd_limit
@click.argument("file", type=Name())
def spectrum(
    run: RunJob,
    as_json: bool,
    file: str,
    output: str | None,
    top: int | None,
    sort: str | None,
    svd_limit: int | None,
) -> None:
    """Singular values of each module's ΔW in FILE, and which ranks would hold 90, 95 and 99 % of it.

    --json and .json have all singular values.
    """
    if output is not None:
        exports.check_output(output)
    found = run("spectrum", SpectrumParameters(absolute(file), svd_limit), SpectrumResult, summary=shown(file))
    table = analyses.spectrum_table(found, sort, top)
    _give(output, as_json, [("Spectra", table)], lambda: plain(found))
    if not as_json and output is None:
        _show("", table, analyses.SPECTRUM_COLUMNS, top)
    tell_rest(found.faults, found.warnings)


@click.command()
@runs_job
@_output
@_top
@click.option("--components", type=click.IntRange(1), default=10, show_default=True, metavar="N")
@click.argument("file", type=Name())
def pca(run: RunJob, as_json: bool, file: str, output: str | None, top: int | None, components: int) -> None:
    """Principal components of each layer of FILE: rows are samples, columns are features, standardised.

    --json and .json also have the components and the transformed data, which are as large as the file or larger.
    """
    if output is not None:
        exports.check_output(output)
    vectors = as_json or (output is not None and output.lower().endswith(".json"))
    wanted = PcaParameters(absolute(file), components, vectors)
    found = run("pca", wanted, PcaResult, summary=shown(file))
    table = analyses.pca_table(found)
    _give(output, as_json, [("Principal components", table)], lambda: plain(found))
    if not as_json and output is None:
        _show("", table, analyses.PCA_COLUMNS, top)
    tell_rest(found.faults, found.warnings)


@click.command()
@runs_job
@click.option("-o", "--output", type=Name(dir_okay=False), metavar="FILE", required=True, help=".png or .svg")
@click.option(
    "--threshold", type=click.FloatRange(0, 1, min_open=True), default=0.9, show_default=True, metavar="T",
    help="Of importance: which blocks stand out.",
)  # fmt: skip
@click.argument("kind", type=click.Choice(KINDS), metavar="KIND")
@click.argument("files", type=Name(), nargs=-1, required=True, metavar="FILE...")
def plot(run: RunJob, as_json: bool, kind: Any, files: tuple[str, ...], output: str, threshold: float) -> None:
    """Draw a picture of FILE. KIND is one of:

    \b
    distribution  the entries of ΔW, as a whole and by block
    heatmap       ‖ΔW‖ of each module, by place and by kind
    rank          singular values, the energy that they hold, effective ranks
    importance    what the blocks weigh, and which hold the threshold
    pca           variance that principal components explain
    comparison    two files or more, side by side
    """
    check_place(output)
    wanted = PlotParameters(kind, tuple(absolute(file) for file in files), format_of(output), threshold)
    found = run("plot", wanted, PlotResult, summary=f"{kind} {shown(files[0])}")
    write_whole(output, found.image)
    if as_json:
        told = {"output": output, "bytes": len(found.image), "format": found.format}
        print(json.dumps({**told, "faults": plain(found.faults), "warnings": plain(found.warnings)}), flush=True)
    else:
        click.echo(f"written: {shown(output)}", err=True)
    tell_rest(found.faults, found.warnings)


def _give(
    output: str | None, as_json: bool, tables: Sequence[tuple[str, Table]], document: Callable[[], Any]
) -> None:
    """As a file, and as JSON on standard output."""
    if output is not None:
        exports.export(output, tables, document)
        click.echo(f"written: {shown(output)}", err=True)
    if as_json:
        print(json.dumps(document()), flush=True)


def _show(title: str, table: Table, names: Sequence[str], top: int | None, count: int = _TOP) -> None:
    """Some columns of the first `count` rows; where it is not a terminal, of `top` rows or all."""
    chosen = [column for name in names for column in table.columns if column.name == name]
    numbers = [not any(isinstance(cell, str) for cell in column.cells) for column in chosen]
    columns = [
        tables.Column(
            column.name.removeprefix("dW.").removeprefix("svd."), right=number, folds=not number and not place
        )
        for place, (column, number) in enumerate(zip(chosen, numbers, strict=True))
    ]
    looked_at = sys.stdout.isatty()
    shown = min(len(table), top or (count if looked_at else len(table)))
    rows = [[brief(column.cells[index]) for column in chosen] for index in range(shown)]
    fits = len(columns)
    if looked_at:
        fits = tables.fitting(columns, rows, shutil.get_terminal_size().columns)
    tables.show_table(columns[:fits], [row[:fits] for row in rows], title=title)
    if fits < len(columns):
        left_out = ", ".join(column.name for column in columns[fits:])
        click.echo(f"no room for {left_out}: a wider terminal shows more, --json and -o have all", err=True)
    if len(table) > shown:
        click.echo(f"… and {len(table) - shown:,} more; --top K shows more of them", err=True)
