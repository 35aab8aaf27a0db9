"""`loractl tag`: tags and notes of your own."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from loracore.control import MOST_LISTED, Files, ListFiles, TaggedFile
from loracore.errors import UsageError
from loracore.expressions import absolute_folders, parse
from loracore.paths import AnyPath, shown
from loractl.commands.options import Connect, Name, asks_daemon
from loractl.view import forms, tables
from loractl.view.tables import count

_REFUSED = 2


@click.command()
@asks_daemon
@click.argument("files", nargs=-1, type=Name(), metavar="[FILE...]")
@click.option("--add", multiple=True, metavar="TAG", help="Give this tag; may be given several times.")
@click.option("--remove", multiple=True, metavar="TAG", help="Take this tag away.")
@click.option("--note", metavar="TEXT", help="Write this in place of its note; an empty one removes it.")
@click.option("--where", metavar="EXPR", help="All files that EXPR asks for, as in `loractl list`.")
def tag(
    connect: Connect,
    as_json: bool,
    *,
    files: tuple[str, ...],
    add: tuple[str, ...],
    remove: tuple[str, ...],
    note: str | None,
    where: str | None,
) -> None:
    """Say of FILE... what you think of it; without options, show what you said. Without FILE, all your tags.

    Nothing is written into files. What you say is kept by weights: it is said of all files that hold them, and is
    there again when they are moved, renamed or copied, or their headers edited. `loractl list` finds files by it:
    own=TAG, note~TEXT, and words alone.

    `loractl tag style.safetensors --add favourite --note 'strong; use 0.6'`;
    `loractl tag --where 'family=sdxl author~kim' --add kim`.
    """
    changes = bool(add or remove) or note is not None
    if not files and where is None:
        if changes:
            raise UsageError("name the files that are to be tagged, or ask for them with --where")
        _show_tags(connect, as_json)
        return
    with connect() as daemon:
        paths: list[AnyPath] = list(files)
        if where is not None:
            asked = absolute_folders(where, os.getcwd())
            parse(asked)
            for page in daemon.pages(ListFiles(asked, most=MOST_LISTED), Files):
                paths += [file.path for file in page.files]
        told = daemon.tag(paths, add=add, remove=remove, note=note)
    told = [_explained(file) for file in told]
    refused = [file for file in told if file.refused]
    if as_json:
        forms.print_json({"files": [_form(file) for file in told]})
    else:
        _show(told, add, remove)
    for file in refused:
        click.echo(f"{shown(file.path)}: {shown(file.refused)}", err=True)
    if refused:
        raise SystemExit(_REFUSED)


def _explained(file: TaggedFile) -> TaggedFile:
    """Why a folder is refused, the client knows better."""
    if not file.refused or not os.path.isdir(file.path):
        return file
    return TaggedFile(file.path, refused="it is a folder; all files in it are --where dir=FOLDER")


def _show(told: Sequence[TaggedFile], add: tuple[str, ...], remove: tuple[str, ...]) -> None:
    known = [file for file in told if not file.refused]
    rows = [(shown(", ".join(file.tags)), shown(file.note), shown(file.path)) for file in known]
    if rows:
        columns = [tables.Column("own tags", folds=True), tables.Column("note", folds=True)]
        tables.show_table([*columns, tables.Column("file", folds=True)], rows, heads=True)
    click.echo(f"{count(len(known), 'file')}{' tagged' if add and not remove else ''}", err=True)


def _show_tags(connect: Connect, as_json: bool) -> None:
    with connect() as daemon:
        found = daemon.tags()
    if as_json:
        forms.print_json({"tags": found.tags, "away": found.away})
        return
    if found.tags:
        columns = [tables.Column("tag", folds=True), tables.Column("models", right=True)]
        tables.show_table(columns, [(shown(tag), f"{number:,}") for tag, number in found.tags.items()], heads=True)
    away = f"; {count(found.away, 'tagged model')} in no watched folder now" if found.away else ""
    click.echo(f"{count(len(found.tags), 'tag')}{away}", err=True)


def _form(file: TaggedFile) -> dict[str, object]:
    form: dict[str, object] = {"path": os.fsdecode(file.path), "tags": file.tags, "note": file.note or None}
    return form | ({"refused": file.refused} if file.refused else {})
