"""`loractl`: the commands, their options and exit codes. What they print is in `loractl.show`."""

from __future__ import annotations

import os
import signal
import sys

import click

from loracore import __version__
from loracore.errors import LoraError
from loracore.paths import default_state_dir
from loractl import scan as scan_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="loractl")
def cli() -> None:
    """Look after a library of LoRA files: find those that hold the same weights."""


@cli.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=click.Path())
@click.option(
    "--state-dir", metavar="D", default=default_state_dir, show_default="the user's state folder",
    help="Where the catalogue and the JSON files are kept; the next scan goes on from there.",
)  # fmt: skip
@click.option(
    "--loaders", type=click.IntRange(1, 16), help="Loader processes. [default: the cores less one, at most 4]"
)
@click.option(
    "--hasher", type=click.Choice(["auto", "cpu"]), default="auto", show_default=True, help="What digests."
)
@click.option("--follow-symlinks", is_flag=True, help="Look through symbolic links.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, no display.")
def scan(
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
    tensors stand in another order, or one is a .pt and the other a .safetensors.

    \b
    Exit: 0 done; 1 done, but some files could not be read; 2 wrong usage or no such folder;
    3 the scanning process ended early; 5 refused (another lorad works on the state folder,
    or it cannot be written).
    """
    sys.exit(
        scan_command.run(
            folders,
            state_dir=state_dir,
            loaders=loaders,
            hasher=hasher,
            follow=follow_symlinks,
            as_json=as_json,
        )
    )


def main() -> None:
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            # Closed by whoever started us; nobody reads what we would say there.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    # Leaves the terminal as it was.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        cli()
        sys.stdout.flush()
    except LoraError as error:
        click.echo(f"loractl: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        click.echo(f"loractl: {error.filename or 'standard output'}: {error.strerror}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(2)


if __name__ == "__main__":
    main()
