"""`loractl`: which commands there are, and how each way to end becomes an exit code (SPEC section 4)."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from importlib import import_module
from typing import NoReturn

import click

from loracore import __version__
from loracore.errors import LoraError
from loracore.paths import shown

_INTERRUPTED = 130
#: Where each command is. Its module is loaded when it is used, or to list it.
_COMMANDS = {
    "scan": "scan",
    "status": "status",
    "wait": "status",
    "groups": "queries",
    "duplicates": "queries",
    "failed": "queries",
    "show": "queries",
    "find": "queries",
    "dedupe": "dedupe",
    "undo": "dedupe",
    "history": "dedupe",
    "savings": "dedupe",
    "hashes": "understand",
    "metadata": "understand",
    "importance": "analyse",
    "spectrum": "analyse",
    "pca": "analyse",
    "plot": "analyse",
    "resize": "resize",
    "merge": "merge",
    "convert": "convert",
    "bake": "bake",
    "compare": "compare",
    "extract": "compare",
    "report": "report",
    "jobs": "jobs",
    "cancel": "jobs",
    "events": "events",
    "audit": "health",
    "doctor": "health",
    "service": "service",
    "keys": "keys",
    "completion": "completion",
}


class _Commands(click.Group):
    """The commands by name, in the order in which a newcomer meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(import_module(f"loractl.commands.{_COMMANDS[cmd_name]}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(_INTERRUPTED)
        except BrokenPipeError:
            _leave_quietly()


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="loractl")
def cli() -> None:
    """Look after a library of LoRA files: find those that hold the same weights.

    `scan`, and all from `hashes` to `report`, work by themselves. The others ask a running daemon
    (`lorad --watch DIR`), which is found by --socket, LORAD_SOCKET, or in the runtime folders.

    \b
    Exit: 0 done; 1 `scan` done but some files failed, or `audit` or `doctor` found something;
    2 wrong usage or bad input; 3 no daemon reachable; 4 timed out; 5 refused.
    """


def main() -> None:
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            # Closed by whoever started us; nobody reads what we would say there.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    # What comes of an overflow is looked at; numpy need not say it.
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    # Leaves the terminal as it was.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        try:
            cli(prog_name="loractl")
        finally:
            sys.stdout.flush()
    except LoraError as error:
        click.echo(f"loractl: {shown(str(error))}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        _leave_quietly()
    except OSError as error:
        click.echo(f"loractl: {error.filename or 'standard output'}: {error.strerror}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(2)


def _leave_quietly() -> NoReturn:
    """Whoever read what we print is gone; what is left of it goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(128 + signal.SIGPIPE)


if __name__ == "__main__":
    main()
