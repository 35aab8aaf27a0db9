"""`loractl scan`: the one command that needs no daemon."""

from __future__ import annotations

import sys

import click

from loracore.paths import default_state_dir
from loractl import scan as scanning
from loractl.commands.options import Name


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=Name())
@click.option(
    "--state-dir", type=Name(), metavar="D", default=default_state_dir, show_default="the user's state folder",
    help="Where the catalogue and the JSON files are kept; the next scan goes on from there.",
)  # fmt: skip
@click.option(
    "--loaders", type=click.IntRange(1, 16), help="Loader processes. [default: the cores less one, at most 4]"
)
@click.option(
    "--hasher",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="What digests: the CPU, an NVIDIA GPU, or what is faster.",
)
@click.option("--follow-symlinks", is_flag=True, help="Look through symbolic links.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, no display.")
def scan(  # noqa: PLR0917 - click hands options over by name
    folders: tuple[str, ...],
    state_dir: str,
    loaders: int | None,
    hasher: str,
    follow_symlinks: bool,
    as_json: bool,
) -> None:
    """Find the files in DIR... that hold the same weights.

    Needs no daemon: starts a private one, shows its progress, prints the duplicates and stops. Nothing in
    DIR is changed. Files that hold the same weights are found also when their metadata was edited, their
    tensors stand in another order, or one is a .pt and the other a .safetensors. Bins, snapshots and
    the like below DIR are left out, as by the default of [watch] exclude.

    \b
    Exit: 0 done; 1 done, but some files could not be read; 2 wrong usage or no such folder;
    3 the scanning process ended early; 5 refused (another lorad works on the state folder,
    or it cannot be written).
    """  # noqa: D301 - click reads \b
    sys.exit(
        scanning.run(
            folders,
            state_dir=state_dir,
            loaders=loaders,
            hasher=hasher,
            follow=follow_symlinks,
            as_json=as_json,
        )
    )
