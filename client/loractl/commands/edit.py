"""`loractl edit`: other entries in the headers of files, as a plan, applied, and taken back."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from loracore.errors import UsageError
from loracore.jobs.edit import EditParameters, EditResult
from loracore.jobs.results import plain
from loracore.paths import absolute, shown
from loractl.commands.options import Name, RunJob, runs_here
from loractl.view import edits, tables

_REFUSED = 2
#: What --strip is without a pattern.
_ALL = "\0all"


@click.command()
@runs_here
@click.option("--history", is_flag=True, help="Instead: the files that were edited, with the ids for --undo.")
@click.option(
    "--undo", "undo", multiple=True, type=click.IntRange(1, 2**63 - 1), metavar="ID",
    help="Instead: take edit ID back, of FILE... alone where they are given. May be repeated.",
)  # fmt: skip
@click.option("--function", is_flag=True, help="Also what changes what a file does, or whether it can be loaded.")
@click.option(
    "--break-links", is_flag=True, help="Also a file of several names (hard links): under this name alone."
)
@click.option(
    "--touch", is_flag=True, help="Give it the time of now; with --undo, also where its time is another."
)
@click.option("--apply", is_flag=True, help="Do it. Without, it is only shown.")
@click.option(
    "--repair-hashes", is_flag=True, help="Compute the hashes that the header states anew (reads the file)."
)
@click.option(
    "--strip", multiple=True, is_flag=False, flag_value=_ALL, metavar="[PATTERN]",
    help="Take out the entries that match, such as 'ss_*'; without a pattern all but what loading needs.",
)  # fmt: skip
@click.option("--unset", multiple=True, metavar="K", help="Take this entry out. May be repeated.")
@click.option("--set", "entries", multiple=True, metavar="K=V", help="Give an entry this value. May be repeated.")
@click.option(
    "--trigger", multiple=True, metavar="T", help="Trigger words: modelspec.trigger_phrase. May be repeated."
)
@click.option("--title", metavar="T", help="The title: modelspec.title.")
@click.argument("files", nargs=-1, type=Name(), metavar="FILE...")
def edit(
    run: RunJob,
    as_json: bool,
    files: tuple[str, ...],
    entries: tuple[str, ...],
    strip: tuple[str, ...],
    **options: Any,
) -> None:
    """Change what the headers of FILE... say (safetensors); the data stay as they are, to the last bit.

    It shows what would change; --apply does it. Each file is written whole beside itself, with the data's blocks
    shared where the file system can, and then put in place at once; mode, owner, mtime and attributes stay. The
    old header is kept in the journal of your state folder (~/.local/state/lorad/edits), for --undo.

    It is done in this process, with your rights, also where a daemon runs. Exit 2 when a file was refused; the
    others are done all the same.

    \b
    loractl edit style.safetensors --title "Ink style" --trigger inkst        what would change
    loractl edit *.safetensors --strip 'ss_dataset*' --apply                   private entries, of many files
    loractl edit --history; loractl edit --undo 3                              take edit 3 back
    """
    wanted = EditParameters(
        tuple(map(absolute, files)),
        _pairs(entries),
        strip=tuple(pattern for pattern in strip if pattern != _ALL),
        strip_all=_ALL in strip,
        **options,
    )
    _check(wanted)
    found = run("edit", wanted, EditResult)
    if as_json:
        print(json.dumps(plain(found)), flush=True)
    elif wanted.history:
        tables.show_table(edits.HISTORY_COLUMNS, edits.history_rows(found))
    else:
        rows = edits.rows(found)
        if rows:
            tables.show_table(edits.COLUMNS, rows[: edits.MOST])
        for line in edits.words(found, more=len(rows) - edits.MOST):
            click.echo(line, err=True)
    for warning in found.warnings:
        click.echo(f"warning: {shown(warning)}", err=True)
    if any(file.state == "refused" for file in found.files):
        raise SystemExit(_REFUSED)


def _pairs(entries: tuple[str, ...]) -> dict[str, str]:
    """Raises UsageError."""
    pairs: dict[str, str] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {shown(entry[:80])}: give KEY=VALUE")
        if key in pairs:
            raise UsageError(f"--set {shown(key[:80])}: it is set twice")
        pairs[key] = value
    return pairs


def _check(wanted: EditParameters) -> None:
    """Raises UsageError for options that contradict each other."""
    for pattern in wanted.strip:
        if pattern.endswith(".safetensors") or os.path.isfile(pattern):
            name = shown(pattern)
            raise UsageError(
                f"--strip takes {name} for its pattern; give --strip behind the files, or --strip='*'"
            )
    changes = wanted.set or wanted.unset or wanted.strip or wanted.strip_all or wanted.repair_hashes
    changes = changes or wanted.title is not None or wanted.trigger
    how = wanted.apply or wanted.touch or wanted.function
    if (wanted.undo or wanted.history) and (changes or how):
        raise UsageError("--undo and --history stand without the options that change a header")
    if wanted.history and (wanted.undo or wanted.paths):
        raise UsageError("--history stands alone")
