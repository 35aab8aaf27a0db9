"""What the commands that change LoRAs have in common: their options, and what they print of the result.

What a job left out, and what else is to be known of its result, stands on standard error, in a few lines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from loracore.jobs.change import Changed, Input, Output
from loracore.jobs.results import Fault, plain
from loracore.paths import shown
from loractl.commands.options import Name, runs_job
from loractl.view import tables
from loractl.view.tables import size

#: Lines of each kind; `--json` has all.
_MOST = 20


def tell_rest(faults: Sequence[Fault], warnings: Sequence[str], what: str = "modules") -> None:
    """`what`: the word for what was left out."""
    for warning in warnings[:_MOST]:
        click.echo(f"warning: {shown(warning)}", err=True)
    for fault in faults[:_MOST]:
        click.echo(f"left out: {shown(fault.module)}: {shown(fault.reason)}", err=True)
    if len(faults) > _MOST:
        click.echo(f"… and {len(faults) - _MOST:,} more {what} were left out; --json names them", err=True)


_BY_SUFFIX = "The container goes by the suffix: .safetensors, .pt, .bin …"


def changes(
    *,
    output: tuple[str, str] = ("FILE", _BY_SUFFIX),
    dtype: str = "as in the first input",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """-o, --force, --check, --dtype and --device, beside what `runs_job` brings.

    The command gets `output`, `force`, `check`, `dtype` and `device`. `output`: what -o is called, and its help.
    `dtype`: which one it is by default.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        options = [
            click.option(
                "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
                help="What computes.",
            ),
            click.option(
                "--dtype", type=click.Choice(["float32", "float16", "bfloat16"]),
                help=f"Of the weights that are written. [default: {dtype}]",
            ),
            click.option("--check", is_flag=True, help="Only look whether it can be done, and what it writes."),
            click.option("--force", is_flag=True, help="Replace what is there."),
            click.option("-o", "--output", type=Name(), metavar=output[0], required=True, help=output[1]),
        ]  # fmt: skip
        for option in options:
            function = option(function)
        return runs_job(function, writes_output=False)

    return decorate


def weights_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--weights W,W…, as `weights`: a tuple of numbers, empty where it is not given."""
    return click.option("--weights", metavar="W,W…", callback=_numbers, help=f"{text} [default: 1 each]")


def _numbers(_: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...]:
    """Raises click's error for what is no list of numbers."""
    try:
        return tuple(float(part) for part in text.split(",")) if text is not None else ()
    except ValueError as error:
        raise click.BadParameter("give numbers with commas between, such as 0.7,0.3", param=parameter) from error


def tell(found: Changed, *, as_json: bool) -> None:
    """Say what became of it; exits with 2 where a check found that it cannot be done."""
    if as_json:
        print(json.dumps(plain(found)), flush=True)
    else:
        columns = [
            tables.Column(""), tables.Column("file", folds=True), tables.Column("modules", right=True),
            tables.Column("rank"), tables.Column("dtype"), tables.Column("size", right=True),
        ]  # fmt: skip
        word = "written" if found.written else "would be"
        rows = [_input_row(each) for each in found.inputs] + [_output_row(word, each) for each in found.outputs]
        tables.show_table(columns, rows)
        if found.error is not None:
            click.echo(f"‖ΔW - ΔW'‖ / ‖ΔW‖ = {found.error:.3g}")
    tell_rest(found.faults, found.warnings)
    for error in found.errors:
        click.echo(f"loractl: {shown(error)}", err=True)
    if not found.is_valid:
        raise SystemExit(2)


def _input_row(found: Input) -> tuple[str, ...]:
    dtypes = ", ".join(found.dtypes)
    return ("from", shown(found.path), f"{found.modules:,}", _ranks(found.ranks), dtypes, "")


def _output_row(word: str, found: Output) -> tuple[str, ...]:
    bytes_ = "" if found.bytes is None else size(found.bytes)
    return (word, shown(found.path), f"{found.modules:,}", _ranks(found.ranks), found.dtype, bytes_)


def _ranks(ranks: dict[str, int]) -> str:
    """The rank that all modules have, or from which to which they go."""
    numbers = sorted(int(rank) for rank in ranks if rank.isdecimal())
    if not numbers:
        return "none"
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
