"""`loractl list`: files by what they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from loracore.control import (
    MOST_LISTED,
    Files,
    FileSet,
    FileSets,
    ListedFile,
    ListFiles,
    ListNames,
    ListRuns,
)
from loracore.errors import UsageError
from loracore.expressions import FIELDS, absolute_folders, field_named, is_term, parse
from loracore.paths import shown
from loractl.commands.options import Connect, Name, asks_daemon
from loractl.view import exports, forms, listing, tables
from loractl.view.tables import count

#: Rows on a terminal by default.
_SHOWN = 200


class _Help(click.Command):
    """With the fields in it, which are data."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Fields"):
            formatter.write_dl([(name, field.help) for name, field in FIELDS.items()])


@click.command(cls=_Help, name="list")
@asks_daemon
@click.argument("expression", nargs=-1, metavar="[EXPR...]")
@click.option("--sort", metavar="FIELD", default="path", show_default=True, help="-FIELD: its highest first.")
@click.option("--columns", metavar="FIELD,...", help=f"By default {','.join(listing.COLUMNS)}.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="So many files; 0 for all. On a terminal, 200.")
@click.option("--facets", metavar="FIELD,...", help="How many files have each value of these.")
@click.option(
    "-o", "--output", type=Name(dir_okay=False), metavar="FILE",
    help="Write all of it: .csv, .json, .parquet, .md or .txt.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE.")
@click.option("--runs", is_flag=True, help="The epochs and versions of each training together.")
@click.option("--names", is_flag=True, help="Files of one name that hold different weights.")
@click.option("--save", metavar="NAME", help="Save EXPR: `@NAME` stands for it from now on.")
@click.option("--saved", is_flag=True, help="What is saved.")
@click.option("--forget", metavar="NAME", help="Forget what is saved under it.")
def list_files(
    connect: Connect,
    as_json: bool,
    *,
    expression: tuple[str, ...],
    sort: str,
    columns: str | None,
    limit: int | None,
    facets: str | None,
    output: str | None,
    force: bool,
    runs: bool,
    names: bool,
    save: str | None,
    saved: bool,
    forget: str | None,
) -> None:
    """Files by what they are, from their headers.

    EXPR is of terms that all hold, such as `family=sdxl`, `rank>=32`, `trigger~ohwx` or `dir=DIR`, and of words
    alone, which are looked for in names, titles, trigger words and tags. `~` contains, `=` takes globs, case is
    ignored; != !~ and !WORD are their opposites. Numbers, sizes and dates have > >= < <= too. Quote a value with
    spaces inside of the term: 'title~"my style"'.

    `loractl list family=sdxl 'rank>=32' trigger~ohwx`;
    `loractl list anime 'size>200MB' --sort -size -o large.csv`.
    """
    _check_alone(runs, names, saved, facets is not None, save is not None, forget is not None)
    asked = absolute_folders(" ".join(map(_quoted, expression)), os.getcwd())
    parse(asked)
    if save is not None and not asked.strip():
        raise UsageError("--save needs an expression to save; --forget NAME forgets one")
    if saved or save is not None or forget is not None:
        _searches(connect, as_json, forget if save is None else save, "" if save is None else asked)
        return
    if runs or names:
        _show_sets(connect, as_json, ListRuns(asked) if runs else ListNames(asked))
        return
    chosen = [field_named(name) for name in _listed(columns)] or list(listing.COLUMNS)
    if output:
        exports.check_output(output)
        if os.path.lexists(output) and not force:
            raise UsageError(f"{shown(output)}: it exists already; --force replaces it")
    if facets:
        _show_facets(connect, as_json, asked, _listed(facets))
        return
    most = limit if limit is not None else _SHOWN if sys.stdout.isatty() and not output and not as_json else 0
    files, total = _files(connect, asked, sort, most)
    if output:
        exports.export(output, [("Files", listing.table(files, chosen))], lambda: listing.form(files, total))
    if as_json:
        forms.print_json(listing.form(files, total))
    elif not output:
        heads, rows = listing.rows(files, chosen)
        if files:
            tables.show_table(heads, rows, heads=True)
        more = f"; the first {len(files):,} are shown, --limit 0 shows all" if len(files) < total else ""
        click.echo(f"{count(total, 'file')}{more}", err=True)


def _check_alone(*given: bool) -> None:
    """What lists something else than files is asked for alone, and files alone are sorted and written."""
    context = click.get_current_context()
    files = [f"--{name}" for name in ("sort", "columns", "limit", "output") if _is_given(context, name)]
    if sum(given) > 1:
        raise UsageError("give one of --runs, --names, --facets, --save, --saved and --forget")
    if any(given) and files:
        raise UsageError(f"{', '.join(files)}: only for a list of files; --json writes the others for programs")


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _quoted(argument: str) -> str:
    """A term whose quotes the shell has taken, such as `title~my style`, with them; others as they are."""
    first, *others = argument.split() or [""]
    if not is_term(first) or not others or {'"', "'"} & set(argument) or any(map(is_term, others)):
        return argument
    value = next(place for place, char in enumerate(argument) if char in "=~<>") + 1
    value += argument[value] in "=~"
    return f'{argument[:value]}"{argument[value:]}"'


def _listed(names: str | None) -> list[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def _files(connect: Connect, asked: str, sort: str, most: int) -> tuple[list[ListedFile], int]:
    """So many files, all for 0, and how many there are."""
    found: list[ListedFile] = []
    total = 0
    request = ListFiles(asked, sort, min(most or MOST_LISTED, MOST_LISTED))
    with connect() as daemon:
        for page in daemon.pages(request, Files):
            total = page.total
            found += page.files
            if most and len(found) >= most:
                break
    return found[: most or None], total


def _searches(connect: Connect, as_json: bool, name: str | None, expression: str) -> None:
    """Save an expression, or forget it where it is empty; without a name, tell what is saved."""
    with connect() as daemon:
        searches = (daemon.searches() if name is None else daemon.save_search(name, expression)).searches
    if as_json:
        forms.print_json({"searches": searches})
    elif name is None:
        heads = [tables.Column("name"), tables.Column("expression", folds=True)]
        tables.show_table(heads, [(f"@{name}", shown(text)) for name, text in searches.items()])


def _show_sets(connect: Connect, as_json: bool, request: ListRuns | ListNames) -> None:
    found: list[FileSet] = []
    with connect() as daemon:
        for page in daemon.pages(request, FileSets):
            found += page.sets
    if as_json:
        sets = [{"name": one.name, **listing.form(one.files, one.total)} for one in found]
        forms.print_json({"sets": sets})
        return
    heads = [
        tables.Column("run" if isinstance(request, ListRuns) else "name", folds=True),
        *(tables.Column(name, right=True) for name in ("files", "epoch", "steps", "size")),
        tables.Column("file", folds=True),
    ]
    if found:
        tables.show_table(heads, [row for one in found for row in listing.set_rows(one)], heads=True)
    click.echo(count(len(found), "run" if isinstance(request, ListRuns) else "name"), err=True)


def _show_facets(connect: Connect, as_json: bool, asked: str, fields: Sequence[str]) -> None:
    with connect() as daemon:
        page = next(daemon.pages(ListFiles(asked, most=0, facets=[field_named(name) for name in fields]), Files))
    if as_json:
        facets = {field: dict(values) for field, values in page.facets.items()}
        forms.print_json({"total": page.total, "facets": facets})
        return
    heads = [tables.Column("field"), tables.Column("value", folds=True), tables.Column("files", right=True)]
    rows = [
        (field if first else "", shown(value) or "unknown", f"{number:,}")
        for field, values in page.facets.items()
        for first, (value, number) in zip([True] + [False] * len(values), values, strict=False)
    ]
    tables.show_table(heads, rows, heads=True)
    click.echo(count(page.total, "file"), err=True)
