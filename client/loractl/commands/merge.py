"""`loractl merge`: several LoRAs as one."""

from __future__ import annotations

from typing import Any

import click

from loracore.jobs.change import Changed, Writing
from loracore.jobs.merge import METHODS, MergeParameters
from loracore.paths import absolute, shown
from loractl.commands.changing import changes, tell, weights_option
from loractl.commands.options import Name, RunJob


@click.command()
@changes()
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="What dare_… draws by.")
@click.option(
    "--density", type=click.FloatRange(0, 1, min_open=True), default=0.5, show_default=True, metavar="D",
    help="The share of entries that ties, dare_… and knots keep.",
)  # fmt: skip
@click.option("--normalize", is_flag=True, help="Divide the weights by their sum.")
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Leave modules of this name or key out; * is any text."
)
@click.option("--include", multiple=True, metavar="PATTERN", help="Take only modules of this name or key.")
@click.option(
    "--rank", type=click.IntRange(1), metavar="N",
    help="[default: exact for linear, else the greatest of the inputs]",
)  # fmt: skip
@click.option("--method", type=click.Choice(METHODS), default="linear", show_default=True)
@weights_option("One for each FILE, such as 0.7,0.3.")
@click.argument("files", type=Name(), nargs=-1, required=True, metavar="FILE...")
def merge(
    run: RunJob,
    as_json: bool,
    files: tuple[str, ...],
    output: str,
    force: bool,
    check: bool,
    dtype: Any,
    device: Any,
    weights: tuple[float, ...],
    **options: Any,
) -> None:
    """Merge the LoRAs FILE, files or PEFT folders, into one; names and metadata are the first one's.

    \b
    linear       the weighted sum of ΔW: exact, or with --rank the nearest of that rank
    svd          the same, always to a rank
    pca          the sum within the principal components of all
    ties         trimmed, a sign elected for each entry, the mean of those that agree
    dare_linear  entries dropped at random, the rest summed
    dare_ties    entries dropped at random, then as ties
    knots        ties where an SVD of all has aligned them
    """
    wanted = MergeParameters(
        tuple(absolute(file) for file in files),
        Writing(absolute(output), force=force, check=check, dtype=dtype, device=device),
        weights=weights,
        **options,
    )
    tell(run("merge", wanted, Changed, summary=f"{len(files)} into {shown(output)}"), as_json=as_json)
