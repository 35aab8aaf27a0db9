"""`loractl groups`, `duplicates`, `failed`, `show` and `find`: what the daemon's catalogue knows.

`find` prints by which hashes a file was found, under the names that they are known by.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator

import click

from loracore.control import (
    MIN_PREFIX,
    Duplicates,
    DuplicateSet,
    Failed,
    Find,
    Found,
    Group,
    Groups,
    ListDuplicates,
    ListFailed,
    ListGroups,
    Match,
    Shown,
)
from loracore.errors import UsageError
from loracore.paths import shown
from loractl import session, steps
from loractl.commands.options import Connect, Name, asks_daemon
from loractl.view import forms, listing, tables
from loractl.view.tables import count, size

_LEVELS = ("inode", "file", "tensors", "weights")
#: Beside a file whose header or configuration gives the same tensors another function.
_DIFFERS = " (other function)"


@click.command()
@asks_daemon
def groups(connect: Connect, as_json: bool) -> None:
    """Files by layout: the same names, dtypes and shapes of all layers."""
    whole, generation = steps.Whole(session.join_groups), 0
    found: list[Group] = []
    with connect() as daemon:
        for page in daemon.pages(ListGroups(), Groups):
            generation = page.generation
            found += whole.add(page.groups)
    found += whole.end()
    if as_json:
        forms.print_json(forms.groups_form(generation, found))
        return
    found.sort(key=lambda group: -len(group.paths))
    columns = [tables.Column("layout"), tables.Column("files", right=True), tables.Column("file", folds=True)]
    rows = (
        (group.signature.hex()[:16] if first else "", f"{len(group.paths):,}" if first else "", shown(path))
        for group in found
        for first, path in zip([True] + [False] * len(group.paths), group.paths, strict=False)
    )
    tables.show_table(columns, rows)


@click.command()
@asks_daemon
@click.option("--level", type=click.Choice(_LEVELS), help="Only those that are the same in this way.")
def duplicates(connect: Connect, as_json: bool, level: str | None) -> None:
    """Sets of files that hold the same weights, and which of each is kept.

    Levels: `inode` one file under several names; `file` all bytes are equal; `tensors` all layers are equal,
    metadata, order or container may differ. "Other function": the header, or adapter_config.json beside the file,
    says something else of the same tensors, another alpha say; it is not counted. --json is as in duplicates.json.
    """
    whole, generation, complete = steps.Whole(session.join_sets), 0, False
    found: list[DuplicateSet] = []
    with connect() as daemon:
        for page in daemon.pages(ListDuplicates(level or ""), Duplicates):
            generation, complete = page.generation, page.complete
            found += whole.add(page.sets)
    found += whole.end()
    if as_json:
        forms.print_json(forms.duplicates_form(generation, complete, found))
        return
    found.sort(key=lambda one: -one.wasted_bytes)
    if found:
        columns = [tables.Column("same"), tables.Column("wasted", right=True), tables.Column("file", folds=True)]
        tables.show_table(columns, _set_rows(found))
    wasted = sum(one.wasted_bytes for one in found)
    unsure = "" if complete else ", and the daemon is still at work"
    click.echo(f"{count(len(found), 'set')} of duplicates, {size(wasted)} could be saved{unsure}", err=True)


def _set_rows(found: list[DuplicateSet]) -> Iterator[tuple[str, str, str]]:
    for one in found:
        yield "kept", size(one.wasted_bytes), shown(one.kept)
        for path, level in one.others:
            yield level, "", shown(path) + (_DIFFERS if path in one.differing else "")


@click.command()
@asks_daemon
def failed(connect: Connect, as_json: bool) -> None:
    """Files that could not be read, and why."""
    files, generation = [], 0
    with connect() as daemon:
        for page in daemon.pages(ListFailed(), Failed):
            generation = page.generation
            files += page.files
    if as_json:
        forms.print_json(forms.failed_form(generation, files))
    elif files:
        columns = [tables.Column("file", folds=True), tables.Column("why", folds=True)]
        tables.show_table(columns, ((shown(file.path), shown(file.reason)) for file in files))
    else:
        click.echo("no file failed", err=True)


@click.command()
@asks_daemon
@click.argument("file", type=Name())
def show(connect: Connect, as_json: bool, file: str) -> None:
    """All that the daemon knows of FILE, by any of its names."""
    with connect() as daemon:
        answer = daemon.show(file)
    if as_json:
        forms.print_json(forms.form(answer))
    else:
        columns = [tables.Column("what"), tables.Column("", folds=True)]
        tables.show_table(columns, list(_facts(answer)))


def _facts(answer: Shown) -> Iterator[tuple[str, str]]:
    yield "file", shown(answer.path)
    yield "status", answer.status
    if answer.error:
        yield "why", shown(answer.error)
    yield "size", f"{size(answer.size)} ({answer.size:,} bytes)"
    yield "mtime_ns", str(answer.mtime_ns)
    if answer.format:
        yield "format", answer.format
    yield from listing.told(answer.facts)
    if answer.own:
        yield "own tags", shown(", ".join(answer.own))
    if answer.note:
        yield "note", shown(answer.note)
    if answer.layout is not None:
        yield "layout", answer.layout.hex()
        yield "layers", f"{answer.layers:,}"
    if answer.weights is not None:
        yield "weights", answer.weights.hex()
    yield from ((label(kind), hash) for kind, hash in answer.hashes.items())
    if answer.hashes_error:
        yield "hashes", f"none: {shown(answer.hashes_error)}"
    yield from (("other name", shown(link)) for link in answer.links)
    if answer.kept is not None:
        yield "kept", shown(answer.kept)
    for path, level in answer.duplicates:
        yield f"same ({level})", shown(path) + (_DIFFERS if path in answer.differing else "")
    yield "load time", f"{answer.load_seconds:.3f} s"


@click.command()
@asks_daemon
@click.argument("hash")
def find(connect: Connect, as_json: bool, hash: str) -> None:
    """Files with the hash HASH, or one that begins so: at least 4 hex digits, in either case, with or without 0x.

    SHA256, AutoV1 to V3, sshs_model_hash, sshs_legacy_hash, BLAKE3 and CRC32 (where the daemon computes them:
    [hashes] on_arrival), layout and weight signatures are looked through; where none is it, the digests of layers.
    """
    digits = hash.lower().removeprefix("0x")
    if len(digits) < MIN_PREFIX or not set(digits) <= set("0123456789abcdef"):
        raise UsageError(f"{shown(hash)}: give a hash or its beginning, at least {MIN_PREFIX} hex digits")
    matches, note = [], ""
    with connect() as daemon:
        for page in daemon.pages(Find(digits), Found):
            matches += page.matches
            note = page.note
    if as_json:
        forms.print_json(forms.found_form(matches, note))
    elif matches:
        columns = [tables.Column("kind"), tables.Column("hash"), tables.Column("file", folds=True)]
        cut = os.isatty(1)
        rows = ((kinds, hash[:16] if cut else hash, shown(path)) for kinds, hash, path in folded(matches))
        tables.show_table(columns, rows)
    else:
        click.echo(f"no file has such a hash{'; ' if note else ''}{shown(note)}", err=True)


_LABELS = {
    "sha256": "SHA256",
    "autov1": "AutoV1",
    "autov2": "AutoV2",
    "autov3": "AutoV3",
    "blake3": "BLAKE3",
    "crc32": "CRC32",
}


def label(kind: str) -> str:
    return _LABELS.get(kind, kind)


def folded(matches: Iterable[Match]) -> Iterator[tuple[str, str, bytes]]:
    """(kinds, hash, path): a hash that begins another one of its file is told in one row with that."""
    by_path: dict[bytes, dict[str, list[str]]] = defaultdict(dict)
    for match in sorted(matches, key=lambda match: (-len(match.hash), match.kind)):
        hashes = by_path[match.path]
        longest = next((hash for hash in hashes if hash.startswith(match.hash)), match.hash)
        hashes.setdefault(longest, []).append(label(match.kind))
    rows = [(", ".join(kinds), hash, path) for path, hashes in by_path.items() for hash, kinds in hashes.items()]
    yield from sorted(rows)
