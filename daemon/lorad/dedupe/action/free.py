"""Freeing: what was put aside is removed, once another file is proven to hold the same and the way back is kept.

Before a file is removed, a kept file is opened anew by its path and held, every byte of the file that goes is
made anew from its layers and compared, and the recipe for that is durable in the journal. After the last name is
removed the kept name is looked at once more; if it is not there, the file is written anew from the descriptor
that is still open.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from loracore.errors import FileError
from lorad.blocks.extents import unshared_bytes
from lorad.dedupe.action import recipe
from lorad.dedupe.action.attributes import make_file, rehearse
from lorad.dedupe.action.compare import Layers, function_of, pieces, write_all
from lorad.dedupe.action.hold import Held, hold
from lorad.dedupe.action.journal import Context, Entry
from lorad.dedupe.action.order import ACTIONS, HELD, FreeOrder, Progress, Refused, Result, Side, spoken
from lorad.dedupe.action.place import Folder, Reached, reach, sync_all
from lorad.dedupe.action.quarantine import clear, name_in, place
from lorad.dedupe.action.recovery import aside_of, final_state
from lorad.dedupe.trouble import doing, told
from lorad.pipeline.protocol import Identity

#: Bytes of recipes that are held in memory at once, but for the last one.
_RECIPES = 16 << 20
_NO_KEEPER = "no other file that may keep these weights is there; it stays as it is"


class _Freeing(NamedTuple):
    """An action whose file is about to be removed: the file, where it lies, and the one that it goes for."""

    entry: Entry
    held: Held
    kept: Held
    recipe: bytes


def free(context: Context, orders: Sequence[FreeOrder], progress: Progress) -> list[Result]:
    """Remove what these actions have put aside. Each result is `freed` or `linked`, or `waiting` with the reason.

    So many go at once as their recipes fit into memory. Raises sqlite3.Error; what was begun is settled by repair.
    """
    waiting: list[Entry] = []
    rest: Sequence[FreeOrder] = ()
    with ExitStack() as stack:
        ready: list[_Freeing] = []
        for number, order in enumerate(orders, start=1):
            entry = context.journal.get(order.number)
            if entry is None or entry.state not in HELD:
                continue
            try:
                ready.append(_prepare(context, entry, order.keepers, stack, progress))
            except (FileError, OSError, EOFError, recipe.Unfit) as error:
                waiting.append(_waits(entry, error))
            if sum(len(each.recipe) for each in ready) > _RECIPES:
                rest = orders[number:]
                break
        context.at("proven")
        entries = context.journal.update_all(
            [msgspec.structs.replace(each.entry, state="freeing", before=each.entry.state) for each in ready],
            {each.entry.id: each.recipe for each in ready},
        )
        context.at("freeing")
        sync_all([fd for each in ready for fd in (each.kept.fd, each.kept.folder)])
        done = [_remove(context, entry, each) for entry, each in zip(entries, ready, strict=True)]
        sync_all([each.held.folder for each in ready])
        context.at("removal synced")
        finished = context.journal.update_all(done)
        context.at("freed")
    # What waits as it did is not written down again at each try.
    context.journal.update_all([entry for entry in waiting if entry != context.journal.get(entry.id)])
    finished += waiting
    for entry in finished:
        if entry.action == "quarantine" and entry.state == "freed":
            clear(context, entry)
    results = [msgspec.structs.replace(entry.result(), aside=aside_of(context, entry)) for entry in finished]
    return results + (free(context, rest, progress) if rest else [])


def _prepare(
    context: Context, entry: Entry, keepers: Sequence[Side], stack: ExitStack, progress: Progress
) -> _Freeing:
    """Hold the file, and the first of the keepers that it can be made from. Raises Refused, Unfit and OSError."""
    if entry.unit:
        raise Refused.about(entry.gone.path, "a folder is not removed by itself; remove it, or undo the action")
    reached = stack.enter_context(reach(entry.gone.root, entry.gone.path))
    at = stack.enter_context(place(context, entry)) if entry.action == "quarantine" else None
    name = entry.aside if at is None else name_in(entry)
    entry = msgspec.structs.replace(entry, folder=Folder.of(reached.folder))
    held = stack.enter_context(
        hold(Reached(entry.gone.root, entry.gone.path, reached.folder if at is None else at, name), None)
    )
    if held.before.st_ino != entry.gone.identity.ino:
        raise Refused.about(aside_of(context, entry), "it is another file than the one that was put aside")
    trouble: Exception = Refused.about(entry.gone.path, _NO_KEEPER)
    for side in keepers:
        with ExitStack() as mine:
            try:
                kept = mine.enter_context(hold(mine.enter_context(reach(side.root, side.path)), None))
                _refuse_other_function(entry, kept, held, reached)
                body = recipe.make(Layers(kept), Layers(held, os.path.basename(entry.gone.path)), progress)
                with doing("make a file in its folder, as giving it back would need"):
                    rehearse(entry.attributes, reached.folder, context.temp(entry))
                held.look()
                kept.look_in_place()
            except (FileError, OSError, EOFError, recipe.Unfit) as error:
                trouble = error
                continue
            stack.push(mine.pop_all())
            return _Freeing(entry, held, kept, body)
    raise trouble


def _refuse_other_function(entry: Entry, kept: Held, held: Held, reached: Reached) -> None:
    """Raises Refused where the kept file does something else to a model."""
    name = os.path.basename(entry.gone.path)
    ours, theirs = function_of(held, name, reached.folder), function_of(kept)
    links = ACTIONS[entry.action].links
    if ours[0] != theirs[0] or (ours[1] != theirs[1] and not links):
        raise Refused.about(kept.path, "it has another function by now than the file that was put aside for it")


def _remove(context: Context, entry: Entry, each: _Freeing) -> Entry:
    """Remove one; the entry as it is to be written down."""
    try:
        each.kept.look_in_place()
        each.held.look()
        # Blocks that it shares with others are not free for that.
        freed = min(entry.bytes, unshared_bytes(each.held.fd)) if each.held.before.st_nlink == 1 else 0
        with doing("remove it (unlink)"):
            os.unlink(each.held.name, dir_fd=each.held.folder)
        context.at("removed")
    except (FileError, OSError) as error:
        return _waits(entry, error)
    try:
        each.kept.look_in_place()
    except (FileError, OSError) as error:
        try:
            return _waits(_written_anew(context, entry, each), error)
        except OSError as trouble:
            text = f"the kept file went while it was removed, and it could not be written anew: {told(trouble)}"
            return msgspec.structs.replace(entry, state=final_state(entry), before="", rebuild=True, text=text)
    return msgspec.structs.replace(entry, state=final_state(entry), before="", rebuild=True, bytes=freed, text="")


def _written_anew(context: Context, entry: Entry, each: _Freeing) -> Entry:
    """The kept file went in the last instant: the file is written anew under its hidden name."""
    held, temp = each.held, context.temp(entry)
    fd = make_file(held.folder, temp)
    try:
        write_all(fd, pieces(held.fd, 0, held.before.st_size))
        context.at("written anew")
        entry.attributes.give(fd)
        os.fsync(fd)
        identity = Identity.of(os.fstat(fd))
    finally:
        os.close(fd)
    os.rename(temp, held.name, src_dir_fd=held.folder, dst_dir_fd=held.folder)
    context.at("renamed anew")
    return msgspec.structs.replace(entry, gone=msgspec.structs.replace(entry.gone, identity=identity))


def _waits(entry: Entry, error: Exception) -> Entry:
    """Not removed, and why."""
    state = "quarantined" if entry.action == "quarantine" else "waiting"
    if isinstance(error, FileError) or not isinstance(error, OSError):
        return msgspec.structs.replace(entry, state=state, before="", text=spoken(str(error)))
    return msgspec.structs.replace(entry, state=state, before="", text=spoken(told(error)))
