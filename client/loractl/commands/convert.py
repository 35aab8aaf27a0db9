"""`loractl convert`: the same LoRA under other names, in another dtype or container."""

from __future__ import annotations

from typing import Any

import click

from loracore.jobs.change import Changed, Writing
from loracore.jobs.convert import CONVENTIONS, ConvertParameters
from loracore.paths import absolute, shown
from loractl.commands.changing import changes, tell
from loractl.commands.options import Name, RunJob


@click.command()
@changes()
@click.option(
    "--to", type=click.Choice(CONVENTIONS),
    help="Whose names. [default: those that it has; only dtype and container change]",
)  # fmt: skip
@click.option("--fold", is_flag=True, help="Put the scale into the factors, for readers that know no alpha.")
@click.option(
    "--leave-out", is_flag=True, help="Go on without what has no name in the other convention, and name it."
)
@click.argument("file", type=Name())
def convert(run: RunJob, as_json: bool, file: str, output: str, force: bool, check: bool, **options: Any) -> None:
    """Write FILE, a LoRA or a PEFT folder, with other names for the same ΔW.

    \b
    kohya      what sd-scripts writes, and most tools read; all in one file
    diffusers  what diffusers saves; scales are in the header
    peft       a folder with adapter_config.json if -o has no suffix (for several models a folder each, in it);
               as a single file, the scale is in the factors

    Fused projections of the original Flux and SD3 are cut for diffusers and PEFT, and joined for kohya. It
    computes on the CPU, and little.
    """
    how = {name: options.pop(name) for name in ("dtype", "device")}
    writing = Writing(absolute(output), force=force, check=check, **how)
    wanted = ConvertParameters(absolute(file), writing, **options)
    tell(run("convert", wanted, Changed, summary=shown(file)), as_json=as_json)
