"""`loractl bake`: LoRAs merged into a base model."""

from __future__ import annotations

import click

from loracore.jobs.bake import BakeParameters
from loracore.jobs.change import Changed, Device, Stored, Writing
from loracore.paths import absolute, shown
from loractl.commands.changing import changes, tell, weights_option
from loractl.commands.options import Name, RunJob


@click.command()
@changes(output=("OUT", "A folder, or x.safetensors where MODEL is one file."), dtype="as in MODEL")
@click.option("--base", type=Name(), metavar="MODEL", required=True,
              help="A Transformers or diffusers folder, or a model in one file.")  # fmt: skip
@weights_option("How much of each LoRA.")
@click.option("--leave-out", is_flag=True, help="Go on without modules that the base lacks, and name them.")
@click.argument("files", type=Name(), nargs=-1, required=True, metavar="LORA...")
def bake(
    run: RunJob,
    as_json: bool,
    files: tuple[str, ...],
    output: str,
    force: bool,
    check: bool,
    base: str,
    weights: tuple[float, ...],
    leave_out: bool,
    dtype: Stored | None,
    device: Device,
) -> None:
    """Write MODEL with each LORA merged into it, a layer at a time: any size fits.

    The result is what MODEL is: a folder with its files, or one file (-o FILE.safetensors). Layers that no LoRA
    touches are copied as they are; with --dtype, all floats are rounded to it. It computes on the CPU.
    """
    writing = Writing(absolute(output), force, check, dtype, device)
    wanted = BakeParameters(tuple(map(absolute, files)), absolute(base), writing, weights, leave_out)
    tell(run("bake", wanted, Changed, summary=f"{shown(files[0])} into {shown(base)}"), as_json=as_json)
