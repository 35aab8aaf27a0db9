"""`loractl status` and `loractl wait`."""

from __future__ import annotations

import sys
import time

import click

from loractl.commands.options import Connect, Seconds, asks_daemon
from loractl.view import forms, tables
from loractl.view import status as summary

#: Seconds between two lines of `status --follow`.
_PRINT = 1.0


@click.command()
@asks_daemon
@click.option("--follow", "-f", is_flag=True, help="Go on, refreshed in place, until Ctrl-C or the daemon's end.")
def status(connect: Connect, as_json: bool, follow: bool) -> None:
    """How the daemon is: progress, queues, processes, watch health, rate, memory, last errors.

    With --json one object; with --follow --json an object a line, each second.
    """
    with connect() as daemon:
        if sys.stdout.isatty() and not as_json:
            from loractl.view.status_screen import print_status  # noqa: PLC0415 - for a terminal alone

            print_status(daemon.status, follow=follow)
            return
        while True:
            answer = daemon.status()
            if as_json:
                forms.print_json(forms.form(answer))
            elif follow:
                print(summary.one_line(answer), flush=True)
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


@click.command()
@asks_daemon
@click.option("--timeout", type=Seconds(), metavar="S", help="Give up after S seconds, with exit 4.")
def wait(connect: Connect, as_json: bool, timeout: float | None) -> None:
    """Return when everything that is on disk now is reflected in the JSON files.

    For scripts: copy files in, `loractl wait`, read duplicates.json. Prints the generation of the files.
    """
    with connect(timeout) as daemon:
        generation = daemon.wait(timeout).generation
    if as_json:
        forms.print_json({"generation": generation})
    else:
        print(f"generation {generation}")
