"""Making what was freed anew, from its recipe and any file that holds the same layers.

Made anew are bytes, mode, owner, times and extended attributes; not ctime, the inode's number, and being one of
several hard links. Nothing that came to stand in its place since is overwritten: see `undo.rename_back`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

import msgspec
from blake3 import blake3

from loracore.attributes import make_file
from loracore.errors import FileError
from lorad.dedupe.action import links, quarantine, recipe, sidecars, units
from lorad.dedupe.action.compare import Layers, pieces, write_all
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.hold import Held, hold
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.journal_file import RECIPES
from lorad.dedupe.action.order import Progress, Refused, Side
from lorad.dedupe.action.place import Folder, Reached, make_way, reach, sync_all
from lorad.dedupe.action.recovery import Pending, settle, with_taken
from lorad.dedupe.action.undo import refuse_covered, rename_back

#: What can go wrong with a file, as opposed to a mistake of ours.
_TROUBLE = (FileError, OSError, EOFError, ValueError)


class Made(NamedTuple):
    """What came of one: the path that it has now, or why it was not made anew."""

    entry: Entry
    path: bytes
    trouble: Exception | None = None


class _Making(NamedTuple):
    """One that is being made, its name, and the files that it may be made from."""

    entry: Entry
    reached: Reached
    sources: Sequence[Side]


def remake(context: Context, wanted: Sequence[tuple[Entry, Sequence[Side]]], progress: Progress) -> list[Made]:
    """Make freed files anew, each from the first of these files that holds its layers. They share their syncs.

    No two may have one path, nor one the path of a file that was kept for another. Raises sqlite3.Error; what was
    begun is settled by repair.
    """
    results: list[Made] = []
    with ExitStack() as stack:
        begun: list[_Making] = []
        for entry, sources in wanted:
            try:
                refuse_covered(context, entry)
                make_way(entry.gone.root, entry.gone.path)
                reached = stack.enter_context(reach(entry.gone.root, entry.gone.path))
            except _TROUBLE as error:
                results.append(Made(entry, b"", error))
                continue
            undoing = msgspec.structs.replace(
                entry, state="undoing", before=entry.state, restored=0, folder=Folder.of(reached.folder)
            )
            begun.append(_Making(undoing, reached, sources))
        context.journal.update_all([each.entry for each in begun])
        context.at("undoing")
        made: list[_Making] = []
        with ExitStack() as copies:
            fds: list[int] = []
            for each in begun:
                try:
                    fds.append(_copied(context, each, progress))
                except _TROUBLE as error:
                    results.append(_taken_back(context, each, error))
                    continue
                copies.callback(os.close, fds[-1])
                copied = msgspec.structs.replace(each.entry, restored=os.fstat(fds[-1]).st_ino)
                made.append(each._replace(entry=copied))
            sync_all(fds)
        context.at("copies synced")
        context.journal.update_all([each.entry for each in made])
        context.at("copies noted")
        done: list[Made] = []
        for each in made:
            try:
                done.append(_named(context, each))
            except _TROUBLE as error:
                results.append(_taken_back(context, each, error))
        sync_all([each.reached.folder for each in made])
        context.journal.update_all([one.entry for one in done])
        context.at("undone")
    for entry, _, _ in done:
        quarantine.clear(context, entry)
        if entry.recipe:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(context.state_dir, RECIPES, str(entry.id)))
    return results + done


def _copied(context: Context, each: _Making, progress: Progress) -> int:
    """A descriptor of the copy, a file or a folder, with all its attributes."""
    entry, reached, temp = each.entry, each.reached, context.temp(each.entry)
    units.remove(reached.folder, temp)
    kept = [*each.sources, entry.kept]
    if entry.unit:
        parts = units.parts(context.journal.recipe(entry.id))
        return units.make(reached, temp, parts, kept, _filling(context, entry, progress))
    if not entry.kind.symbolic and links.is_ours(entry, reached, reached.name, reached.status()):
        kept.insert(0, entry.gone)
    fd = make_file(reached.folder, temp)
    try:
        context.at("temp made")
        _filling(context, entry, progress)(fd, context.journal.recipe(entry.id), kept)
        entry.attributes.give(fd)
        context.at("copied")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _filling(context: Context, entry: Entry, progress: Progress) -> units.Fill:
    """Raises Refused where there is no file that it can be made from."""

    def write(fd: int, pieces: Iterator[bytes]) -> None:
        done = 0
        for piece in pieces:
            done += write_all(fd, [piece])
            progress(min(done, entry.gone.identity.size), entry.gone.identity.size)

    def fill(fd: int, body: bytes | None, sources: Sequence[Side]) -> None:
        if body is not None and not sources:
            write(fd, recipe.rebuild(body, None))
            return
        trouble = ""
        for side in sources:
            os.lseek(fd, 0, os.SEEK_SET)
            os.ftruncate(fd, 0)
            try:
                with reach(side.root, side.path) as source, hold(source, None) as held:
                    write(fd, _content(context, entry, body, held))
            except (ValueError, EOFError, FileError) as error:
                reason = error.reason if isinstance(error, FileError) else error
                trouble = trouble or f"{os.fsdecode(side.path)}: {reason}"
            else:
                return
        raise Refused.about(
            entry.gone.path,
            f"no file is known that it could be made from ({trouble}); put a file with its weights there",
        )

    return fill


def _content(context: Context, entry: Entry, body: bytes | None, held: Held) -> Iterator[bytes]:
    """The file's bytes. Raises ValueError, at the end too, where they are not."""
    if entry.rebuild:
        if body is None:
            raise ValueError("its recipe is missing in the journal")
        yield from recipe.rebuild(body, Layers(held))
        return
    if not entry.digest:
        raise ValueError("what was put aside was removed by another program")
    path = os.path.join(context.state_dir, RECIPES, str(entry.id))
    hasher = blake3()
    for piece in (
        recipe.rebuild_old(path, held.fd) if entry.recipe else pieces(held.fd, 0, entry.gone.identity.size)
    ):
        hasher.update(piece)
        yield piece
    if hasher.digest() != entry.digest:
        raise ValueError("it was changed since")


def _named(context: Context, each: _Making) -> Made:
    """Give the copy its name, and its sidecars theirs; what is to be written down. Raises Refused and OSError."""
    entry, reached = each.entry, each.reached
    shown = rename_back(entry, reached, reached.folder, context.temp(entry), undo=True)
    context.at("renamed")
    with quarantine.place(context, entry) as place:
        taken = sidecars.put_back(context, entry, reached, place)
        if entry.unit:
            # It may have been killed while it was freed.
            units.clear(context.journal.recipe(entry.id), *quarantine.where(entry, reached.folder, place))
    text = with_taken("" if shown == reached.name else f"its name is taken: it is {os.fsdecode(shown)}", taken)
    entry = msgspec.structs.replace(entry, state="undone", text=text)
    return Made(entry, os.path.join(os.path.dirname(entry.gone.path), shown))


def _taken_back(context: Context, each: _Making, error: Exception) -> Made:
    """What was begun is brought back to before; where that cannot be, repair does it later."""
    with suppress(*_TROUBLE, Pending, sqlite3.Error):
        settle(context, each.entry, each.reached, str(error))
    return Made(each.entry, b"", error)
