"""`loractl events`: what the daemon does, as it does it."""

from __future__ import annotations

import sys
from typing import get_args

import click

from loracore import control
from loracore.control import (
    ActionRefused,
    ActionTaken,
    ActionUndone,
    DaySummary,
    DedupeProgress,
    Event,
    FileFreed,
    FileGivenBack,
    FileHashed,
    JobEnded,
    JobProgress,
)
from loracore.paths import shown
from loractl.commands.options import Connect, asks_daemon
from loractl.view.forms import event_form, print_json
from loractl.view.tables import size

KINDS = tuple(str(event.__struct_config__.tag) for event in get_args(control.Event))
_COLOURS = {
    "duplicate": "cyan", "failed": "red", "refused": "red", "child": "red", "hasher": "yellow", "watch": "yellow",
    "action": "green",
}  # fmt: skip


@click.command()
@asks_daemon
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only these; may be repeated.")
def events(connect: Connect, as_json: bool, kinds: tuple[str, ...]) -> None:
    """The live stream: files seen, grouped, found to be duplicates, failed; actions; restarts.

    A line for each, until Ctrl-C or the daemon's end (exit 3). With --json an object a line; its `number`
    counts the daemon's events, so that a gap shows that some came faster than they were read.
    """
    with connect() as daemon, daemon.events(kinds or None) as stream:
        for told in stream:
            if as_json:
                print_json(event_form(told))
                continue
            kind = str(told.event.__struct_config__.tag)
            line = f"{told.time}  {click.style(kind.ljust(12), fg=_COLOURS.get(kind))}  {_text(told.event)}"
            click.echo(line)
            sys.stdout.flush()


def _text(event: Event) -> str:
    """What happened, in a line."""
    match event:
        case control.FileSeen(path, length):
            return f"{shown(path)} ({size(length)})"
        case control.FileGrouped(path, layout, alone):
            return f"{shown(path)} layout {layout.hex()[:16]}{', the only one' if alone else ''}"
        case control.DuplicateFound(path, others):
            return f"{shown(path)} = {', '.join(map(shown, others))}"
        case control.FileGone(path):
            return shown(path)
        case control.FileFailedEvent(path, reason):
            return f"{shown(path)}: {shown(reason)}"
        case control.ChildRestarted(name, reason):
            return f"{shown(name)} was restarted: {shown(reason)}"
        case control.HasherChanged(hasher, note):
            return f"{shown(hasher)}{': ' + shown(note) if note else ''}"
        case control.WatchChanged(root, health, reason):
            return f"{shown(root)} {health}{': ' + shown(reason) if reason else ''}"
        case control.PublishedEvent(generation):
            return f"the JSON files are of generation {generation}"
        case _:
            return _action_text(event)


def _action_text(
    event: ActionTaken
    | ActionRefused
    | ActionUndone
    | DedupeProgress
    | DaySummary
    | JobProgress
    | JobEnded
    | FileHashed
    | FileGivenBack
    | FileFreed,
) -> str:
    """The same for what becomes of duplicates, for jobs and for hashes."""
    match event:
        case control.ActionTaken():
            freed = f"{size(event.bytes)} freed"
            return f"{event.action} {shown(event.path)}, kept {shown(event.kept)}, {freed} (undo {event.id})"
        case control.ActionRefused(action, _, path, reason):
            return f"{action} {shown(path)}: {shown(reason)}"
        case control.ActionUndone(number, path):
            return f"{shown(path)} is as it was before action {number}"
        case control.FileGivenBack(number, path, name):
            place = "" if name == path else f", under the name {shown(name)}"
            return f"{shown(path)} is back, as the kept file of action {number} is gone{place}"
        case control.FileFreed(number, path, length):
            return f"{shown(path)}: {size(length)} freed (action {number})"
        case control.DedupeProgress():
            return f"{event.done:,} of {event.total:,} files, {size(event.bytes)} of {size(event.bytes_total)}"
        case control.DaySummary():
            done = ", ".join(f"{action} {number:,}" for action, number in event.done.items()) or "nothing"
            return (
                f"since {event.since}: {done}, {size(event.bytes)} saved, "
                f"{event.refused:,} refused, {event.undone:,} undone"
            )
        case control.JobProgress(number, done, total, what):
            share = f"{done / total:.0%} " if total > 0 else ""
            return f"job {number} {share}{shown(what)}".rstrip()
        case control.JobEnded(number, state):
            return f"job {number} {state}"
        case control.FileHashed(path, sha256):
            return f"{shown(path)} SHA256 {sha256}"
