"""`loractl`: which commands there are, and how each way to end becomes an exit code (SPEC section 4)."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
import warnings
from importlib import import_module
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from loracore import __version__
from loracore.errors import LoraError
from loracore.paths import shown, speak_utf8

_INTERRUPTED = 130
#: Set, it has mistakes in lorad tell where they are.
_TRACEBACK = "LORAD_TRACEBACK"
#: Where each command is, and its line in the list of all. Its module is loaded when the command is used.
COMMANDS = {
    "scan": ("scan", "Find the files in DIR... that hold the same weights."),
    "status": ("status", "Progress, queues, processes, watch health, errors."),
    "wait": ("status", "Return when the JSON files say what is on disk."),
    "list": ("listing", "Files by what they are: family, rank, trigger words …"),
    "tag": ("tag", "Tags and notes of your own, kept by weights."),
    "groups": ("queries", "Files by layout."),
    "duplicates": ("queries", "Files that hold the same weights."),
    "failed": ("queries", "Files that could not be read, and why."),
    "show": ("queries", "All that the daemon knows of FILE, by any of its names."),
    "find": ("queries", "Files with a hash, or the beginning of one."),
    "dedupe": ("dedupe", "What would become of duplicates; --apply does it."),
    "undo": ("dedupe", "Take back what was done with duplicates."),
    "free": ("dedupe", "Remove what was put aside."),
    "history": ("dedupe", "What was done with duplicates."),
    "savings": ("dedupe", "What de-duplication saved, and what it could."),
    "hashes": ("understand", "The hashes by which people look a file up."),
    "metadata": ("understand", "What a file says about itself."),
    "importance": ("analyse", "Which modules and blocks carry the weight."),
    "spectrum": ("analyse", "Singular values of each module."),
    "pca": ("analyse", "Principal components of each layer."),
    "plot": ("analyse", "A picture of what is in the weights."),
    "edit": ("edit", "Change what headers say, of one file or thousands; --apply does it."),
    "resize": ("resize", "A LoRA of other ranks, or of another size."),
    "merge": ("merge", "Several LoRAs as one, with a weight each."),
    "convert": ("convert", "kohya, PEFT or diffusers naming, another dtype or container."),
    "bake": ("bake", "Merge LoRAs into a base model."),
    "compare": ("compare", "What two models differ by, layer by layer."),
    "extract": ("compare", "What two models differ by, as a LoRA."),
    "report": ("report", "A finished comparison, in short and as pictures."),
    "jobs": ("jobs", "What the daemon computes."),
    "cancel": ("jobs", "End a job of the daemon."),
    "events": ("events", "The live stream of what the daemon does."),
    "audit": ("health", "Compare disk, catalogue and JSON files."),
    "doctor": ("health", "What is wrong with the daemon's machine, and the remedy."),
    "service": ("service", "Make lorad a service of systemd, for this machine."),
    "keys": ("keys", "Make, show and allow keys, for daemons that are used by TCP."),
    "completion": ("completion", "Print what makes SHELL complete commands and options."),
}


#: Commands whose function cannot be called as they are.
_FUNCTIONS = {"list": "list_files"}


class _Commands(click.Group):
    """The commands by name, in the order in which a newcomer meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(
            import_module(f"loractl.commands.{COMMANDS[cmd_name][0]}"), _FUNCTIONS.get(cmd_name, cmd_name)
        )
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        listed = [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items()]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [item for item in listed if item.value.startswith(incomplete)] + options

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
    speak_utf8("loractl")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Of a terminal that has no ΔW, or a name that is no UTF-8, something is shown all the same.
            stream.reconfigure(errors="backslashreplace")
    # What comes of an overflow is looked at; numpy need not say it.
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    # Leaves the terminal as it was.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        try:
            status = cli(prog_name="loractl", standalone_mode=False)
        finally:
            sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        _refuse(error)
    except click.Abort:
        sys.exit(_INTERRUPTED)
    except LoraError as error:
        click.echo(f"loractl: {shown(str(error))}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        _leave_quietly()
    except OSError as error:
        click.echo(f"loractl: {error.filename or 'standard output'}: {error.strerror}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(2)
    except Exception as error:
        # A mistake is one line, not a traceback.
        if os.environ.get(_TRACEBACK):
            traceback.print_exc()
        text = shown(f"{type(error).__name__}: {error}"[:500])
        click.echo(
            f"loractl: a mistake in lorad: {text}; please report it, with what {_TRACEBACK}=1 adds", err=True
        )
        sys.exit(5)


def _refuse(error: click.ClickException) -> NoReturn:
    """A wrong option or argument in one line; what is shown without a command is its help."""
    context = getattr(error, "ctx", None)
    # Of click 8.2 and later.
    if context is None or isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
    else:
        text = shown(" ".join(error.format_message().split()).rstrip("."))
        click.echo(f"loractl: {text}; see {context.command_path} --help", err=True)
    sys.exit(error.exit_code)


def _leave_quietly() -> NoReturn:
    """Whoever read what we print is gone; what is left of it goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(128 + signal.SIGPIPE)


if __name__ == "__main__":
    main()
