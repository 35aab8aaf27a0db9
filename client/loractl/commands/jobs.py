"""`loractl jobs` and `loractl cancel`: what the daemon computes, in rows, and how to end it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from loracore.paths import shown
from loractl.commands.options import Connect, asks_daemon
from loractl.view import forms, tables
from loractl.view.tables import Column, Row, duration

if TYPE_CHECKING:
    from loracore.control import JobState

_REFUSED = 5


@click.command()
@asks_daemon
def jobs(connect: Connect, as_json: bool) -> None:
    """Heavy commands that wait or run in the daemon, and those that ended lately.

    One ends with the command that asked for it, unless that was given --detach; `loractl cancel ID` ends one.
    """
    with connect() as daemon:
        listed = daemon.jobs()
    if as_json:
        forms.print_json({"jobs": [forms.form(job) for job in listed]})
    elif listed:
        tables.show_table(COLUMNS, rows(listed))
    else:
        click.echo("no jobs", err=True)


@click.command()
@asks_daemon
@click.argument("id", type=click.IntRange(1, 2**63 - 1))
def cancel(connect: Connect, as_json: bool, id: int) -> None:
    """End the job ID, as `loractl jobs` numbers them. Exit 5 when it was over already.

    It is asked to end first, so that it leaves nothing half done, and is killed when it does not within seconds.
    """
    with connect() as daemon:
        job = daemon.cancel_job(id)
    if as_json:
        forms.print_json(forms.form(job))
    else:
        was = "cancelled" if job.state == "cancelled" else f"over already: {job.state}"
        click.echo(f"job {job.id}, {job.name}: {was}", err=True)
    sys.exit(0 if job.state == "cancelled" else _REFUSED)


COLUMNS = [
    Column("id", right=True),
    Column("job"),
    Column("state"),
    Column("done", right=True),
    Column("time", right=True),
    Column("about", folds=True),
]


def rows(jobs: Iterable[JobState]) -> Iterator[Row]:
    for job in jobs:
        share = f"{min(1.0, job.done / job.total):.0%}" if job.state == "running" and job.total > 0 else ""
        about = [job.summary, job.what if job.state == "running" else job.error]
        text = ": ".join(shown(part) for part in about if part)
        yield str(job.id), shown(job.name), job.state, share, duration(job.seconds), text
