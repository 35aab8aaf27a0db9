"""`loractl resize`: a LoRA of other ranks."""

from __future__ import annotations

from typing import Any

import click

from loracore.jobs.change import Changed, Writing
from loracore.jobs.resize import ResizeParameters, parse_size, read_block_ranks
from loracore.paths import absolute, shown
from loractl.commands.changing import changes, tell
from loractl.commands.options import Name, RunJob

_SHARE = click.FloatRange(0, 1, min_open=True)


@click.command()
@changes()
@click.option("--sv-knee", is_flag=True, help="Up to where singular values lie farthest below a straight line.")
@click.option(
    "--sv-cumulative", type=_SHARE, metavar="C",
    help="The least rank that holds this share of the sum of singular values.",
)  # fmt: skip
@click.option("--sv-fro", type=_SHARE, metavar="F", help="The least rank that holds this share of ‖ΔW‖.")
@click.option(
    "--sv-ratio", type=click.FloatRange(1), metavar="R", help="Singular values above the first one over R."
)
@click.option("--budget", metavar="SIZE", help="The file's size, as 20MB: ranks with the least loss for it.")
@click.option(
    "--prune", type=_SHARE, metavar="T",
    help="Leave blocks out but for the smallest set that holds this share of ‖ΔW‖².",
)  # fmt: skip
@click.option(
    "--rank-per-block", type=Name(), metavar="FILE",
    help='Ranks by block, as `importance` names them: JSON {"down_blocks.*": 8}, or TOML. 0 leaves one out.',
)  # fmt: skip
@click.option(
    "--method", type=click.Choice(["svd", "truncate", "pad"]), default="svd", show_default=True,
    help="svd: nearest to ΔW. truncate, pad: cut factors off, or widen them without changing ΔW.",
)  # fmt: skip
@click.option(
    "--rank", type=click.IntRange(1), metavar="N", help="Of each module; with --sv-… or --budget at most."
)
@click.argument("file", type=Name())
def resize(
    run: RunJob,
    as_json: bool,
    file: str,
    output: str,
    force: bool,
    check: bool,
    dtype: Any,
    device: Any,
    budget: str | None,
    rank_per_block: str | None,
    **options: Any,
) -> None:
    """Give FILE, a LoRA or a PEFT folder, other ranks; the scale of ΔW is kept.

    A module that has no greater rank already stays as it is. LoHa and LoKr become LoRA.
    """
    wanted = ResizeParameters(
        absolute(file),
        Writing(absolute(output), force=force, check=check, dtype=dtype, device=device),
        block_ranks={} if rank_per_block is None else read_block_ranks(rank_per_block),
        budget=None if budget is None else parse_size(budget),
        **options,
    )
    tell(run("resize", wanted, Changed, summary=shown(file)), as_json=as_json)
