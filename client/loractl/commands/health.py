"""`loractl audit` and `loractl doctor`: is the daemon right, and is its machine fit for it."""

from __future__ import annotations

import sys

import click

from loracore.paths import shown
from loractl.commands.options import Connect, asks_daemon
from loractl.view import forms, tables
from loractl.view.tables import count


@click.command()
@asks_daemon
def audit(connect: Connect, as_json: bool) -> None:
    """Compare the disk with the catalogue, and that with the JSON files. Exit 1 where they differ.

    Reads no weights and changes nothing. What has just changed is looked at again until it has settled.
    """
    with connect() as daemon:
        answer = daemon.audit()
    if as_json:
        forms.print_json(forms.form(answer))
    else:
        if answer.differences:
            columns = [tables.Column("what"), tables.Column("file", folds=True), tables.Column("why", folds=True)]
            rows = ((one.what, shown(one.path), shown(one.text)) for one in answer.differences)
            tables.show_table(columns, rows)
        differing = len(answer.differences) + answer.omitted
        click.echo(f"{count(answer.files, 'file')}, {count(differing, 'difference')}", err=True)
    sys.exit(1 if answer.differences else 0)


@click.command()
@asks_daemon
def doctor(connect: Connect, as_json: bool) -> None:
    """What is wrong with the daemon's machine, and the remedy. Exit 1 with problems.

    Looks at inotify's limits, file systems, reflinks, the GPU, permissions and free space.
    """
    with connect() as daemon:
        answer = daemon.doctor()
    if as_json:
        forms.print_json(forms.form(answer))
    else:
        columns = [
            tables.Column("level"), tables.Column("what", folds=True), tables.Column("finding", folds=True),
            tables.Column("remedy", folds=True),
        ]  # fmt: skip
        rows = ((one.level, shown(one.name), shown(one.text), shown(one.remedy)) for one in answer.findings)
        tables.show_table(columns, rows)
    sys.exit(1 if any(one.level == "problem" for one in answer.findings) else 0)
