"""`loractl status` and `loractl wait`."""

from __future__ import annotations

import sys
import time

import click

from loractl.commands.options import Connect, Seconds, asks_daemon

#: Seconds between two looks of `status --follow` on a terminal, and of those that are printed.
_REFRESH, _PRINT = 0.5, 1.0


@click.command(short_help="Progress, queues, processes, watch health, errors.")
@asks_daemon
@click.option("--follow", "-f", is_flag=True, help="Go on, refreshed in place, until Ctrl-C or the daemon's end.")
def status(connect: Connect, as_json: bool, follow: bool) -> None:
    """How the daemon is: progress, queues, processes, watch health, rate, memory, last errors.

    With --json one object; with --follow --json an object a line, each second.
    """
    from loractl.view import forms, tables  # noqa: PLC0415 - not loaded for --help
    from loractl.view import status as summary  # noqa: PLC0415 - not loaded for --help

    with connect() as daemon:
        if follow and not as_json and sys.stdout.isatty():
            _follow(daemon)
        while True:
            answer = daemon.status()
            if as_json:
                forms.print_json(forms.form(answer))
            elif follow:
                print(summary.one_line(answer), flush=True)
            elif sys.stdout.isatty():
                from rich.console import Console  # noqa: PLC0415 - for a terminal alone

                from loractl.view.screen import status_screen  # noqa: PLC0415

                Console(highlight=False).print(status_screen(answer))
            else:
                done, total, percent = summary.progress(answer)
                print(summary.headline(answer))
                facts = [("progress", f"{percent:.1f} %, {done:,} of {total:,} files"), *summary.numbers(answer)]
                tables.print_plain([tables.Column("name"), tables.Column("value")], facts)
                for section in summary.sections(answer):
                    print(f"\n{section.title}")
                    tables.print_plain(section.columns, section.rows)
            if not follow:
                return
            time.sleep(_PRINT)


def _follow(daemon: object) -> None:
    """The status on a terminal, refreshed in place; ends by Ctrl-C or with the daemon."""
    from rich.console import Console  # noqa: PLC0415 - for a terminal alone
    from rich.live import Live  # noqa: PLC0415

    from loractl.client import Client  # noqa: PLC0415
    from loractl.view.screen import status_screen  # noqa: PLC0415

    assert isinstance(daemon, Client)
    with Live(console=Console(highlight=False), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(status_screen(daemon.status()), refresh=True)
            time.sleep(_REFRESH)


@click.command(short_help="Return when the JSON files say what is on disk.")
@asks_daemon
@click.option("--timeout", type=Seconds(), metavar="S", help="Give up after S seconds, with exit 4.")
def wait(connect: Connect, as_json: bool, timeout: float | None) -> None:
    """Return when everything that is on disk now is reflected in the JSON files.

    For scripts: copy files in, `loractl wait`, read duplicates.json. Prints the generation of the files.
    """
    with connect(timeout) as daemon:
        generation = daemon.wait(timeout).generation
    if as_json:
        from loractl.view.forms import print_json  # noqa: PLC0415 - not loaded for --help

        print_json({"generation": generation})
    else:
        print(f"generation {generation}")
