"""Giving back what an action has put aside: by a rename. For what was freed see `remake`.

Nothing that came to stand in its place since is overwritten: where its name is taken, the file becomes
`NAME (given back).EXT`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress

import msgspec

from loracore.causes import doing
from loracore.errors import FileError
from lorad.dedupe.action import links, quarantine, reflink, sidecars
from lorad.dedupe.action.compare import same_bytes
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.hidden import path_in
from lorad.dedupe.action.hold import Held, hold
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.order import HELD, Refused, silent
from lorad.dedupe.action.place import Folder, Reached, exchange, make_way, reach, rename_new, to_free_name
from lorad.dedupe.action.recovery import finish_shown, is_same, status_in, with_taken
from lorad.watch.scanner import HIDDEN


def show(context: Context, entry: Entry, *, undo: bool) -> tuple[Entry, bytes, list[int]]:
    """Give a file that was put aside its name back, by a rename that nothing is written down before.

    `undo`: also where a link of ours leads to something. Returns the entry as it is to be written down, the name,
    and folders that are to be synced and closed. Raises Refused and OSError.
    """
    with ExitStack() as stack:
        if entry.kind.quarantines:
            make_way(entry.gone.root, entry.gone.path)
        reached = stack.enter_context(reach(entry.gone.root, entry.gone.path))
        place = stack.enter_context(quarantine.place(context, entry))
        folder, name = quarantine.where(entry, reached.folder, place)
        aside, there = status_in(folder, name), reached.status()
        ours = links.is_ours(entry, reached, name, aside)
        back = there is not None and there.st_ino == entry.gone.identity.ino
        if back and (aside is None or ours or is_same(aside, there)):
            return finish_shown(context, entry, "undone" if undo else "given_back"), entry.gone.path, []
        if aside is None or ours:
            raise _not_there(entry, path_in(context, entry))
        shown = rename_back(entry, reached, folder, name, undo=undo)
        context.at("shown")
        taken = sidecars.put_back(context, entry, reached, place)
        folders = [os.dup(reached.folder), *([os.dup(place)] if place is not None else [])]
    text = with_taken("" if shown == reached.name else f"its name is taken: it is {os.fsdecode(shown)}", taken)
    entry = msgspec.structs.replace(entry, state="undone" if undo else "given_back", text=text)
    return entry, os.path.join(os.path.dirname(entry.gone.path), shown), folders


def rename_back(entry: Entry, reached: Reached, folder: int, name: bytes, *, undo: bool) -> bytes:
    """Put the file at its name, in place of our link, or beside what stands there; the name it has now."""
    there = reached.status()
    with doing("give it its name back (rename)"), ExitStack() as stack:
        if there is None:
            with suppress(FileExistsError):
                rename_new(folder, name, reached.folder, reached.name)
                return reached.name
        elif folder == reached.folder and links.is_ours(entry, reached, reached.name, there):
            gives_way = _gives_way(entry, reached, undo=undo)
            only = None
            if not entry.kind.symbolic and undo and there.st_nlink == 1:
                only = _hold_same(reached, name, stack)
                gives_way = only is not None
            if gives_way:
                exchange(folder, name, reached.name)
                ours = links.is_ours(entry, reached, name, reached.status(name))
                if ours and not (only is not None and only.visited):
                    os.unlink(name, dir_fd=folder)
                    return reached.name
                # Another file came to stand there just now, or somebody to write to the link.
                exchange(folder, name, reached.name)
        return to_free_name(reached, folder, name)


def _gives_way(entry: Entry, reached: Reached, *, undo: bool) -> bool:
    """Whether a link of ours, which is not the only name of what it leads to, is not needed any more."""
    if not entry.kind.symbolic:
        return undo
    try:
        os.stat(reached.name, dir_fd=reached.folder)
    except OSError:
        return True
    return undo


def _hold_same(reached: Reached, name: bytes, stack: ExitStack) -> Held | None:
    """The last name of what a hard link led to, held, if its bytes are those of the file that returns."""
    back = Reached(reached.root, reached.path, reached.folder, name)
    with suppress(FileError, EOFError), ExitStack() as mine:
        link = mine.enter_context(hold(reached, None))
        same_bytes(link, mine.enter_context(hold(back, None)), silent)
        stack.push(mine.pop_all())
        return link
    return None


def bring_back(root: bytes, path: bytes, aside: bytes) -> bytes:
    """Give what was put aside beside `path` that name again, without a journal; the path that it has then.

    Where that is taken it is put beside it. Raises Refused and OSError.
    """
    with reach(root, path) as reached, doing("give it its name back (rename)"):
        name = os.path.basename(aside)
        try:
            rename_new(reached.folder, name, reached.folder, reached.name)
            shown = reached.name
        except FileExistsError:
            shown = to_free_name(reached, reached.folder, name)
        for sidecar, home in _same_action(reached.folder, name):
            with suppress(FileExistsError):
                rename_new(reached.folder, sidecar, reached.folder, home)
        os.fsync(reached.folder)
    return os.path.join(os.path.dirname(path), shown)


def _same_action(folder: int, name: bytes) -> list[tuple[bytes, bytes]]:
    """What else an action has hidden in a folder, by the hidden name of its file, and the names of that."""
    ours = HIDDEN.fullmatch(name)
    others = [match for each in os.listdir(folder) if (match := HIDDEN.fullmatch(os.fsencode(each)))]
    return [
        (other[0], other["name"])
        for other in others
        if ours is not None and other[0] != name and (other["token"], other["id"]) == (ours["token"], ours["id"])
    ]


def _not_there(entry: Entry, aside: bytes) -> Refused:
    return Refused.about(
        entry.gone.path, f"{os.fsdecode(aside)} is not there; mount its disk or put it back there, and undo again"
    )


def unshare(context: Context, entry: Entry) -> Entry:
    """Undo a reflink: the file gets blocks of its own. Raises Refused and OSError."""
    with reach(entry.gone.root, entry.gone.path) as reached:
        entry = context.journal.update(entry, state="undoing", before="shared", folder=Folder.of(reached.folder))
        context.at("undoing")
        text = reflink.undo(context, entry, reached)
        entry = context.journal.update(entry, state="undone", text=text)
        context.at("undone")
    return entry


def refuse_covered(context: Context, entry: Entry) -> None:
    """Raises Refused where a later action has put a link of its own in the place of this one's."""
    number = context.journal.later_at(entry.gone.path, entry.id)
    if number is not None and entry.state not in HELD:
        raise Refused.about(entry.gone.path, f"action {number} has replaced it since; undo that first")
