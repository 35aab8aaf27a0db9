"""Freeing: what was put aside is removed, once another file is proven to hold the same and the way back is kept.

Before a file is removed, a kept file is opened anew by its path and held, every byte of the file that goes is
made anew from its layers and compared, and the recipe for that is durable in the journal. After the last name is
removed the kept name is looked at once more; if it is not there, the file is written anew from the descriptor
that is still open.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from loracore.attributes import Attributes, make_file, rehearse
from loracore.causes import doing, told
from loracore.errors import FileError
from loracore.identity import Identity
from lorad.blocks.extents import unshared_bytes
from lorad.dedupe.action import recipe, units
from lorad.dedupe.action.compare import Layers, function_of, pieces, write_all
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.hidden import path_in, result_of
from lorad.dedupe.action.hold import Held, hold, watchful
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.order import HELD, Differs, FreeOrder, Progress, Refused, Result, Side, spoken
from lorad.dedupe.action.place import Folder, Reached, closing_fd, reach, sync_all
from lorad.dedupe.action.quarantine import clear, place, where

#: Bytes of recipes that are held in memory at once, but for the last one.
_RECIPES = 16 << 20
_NO_KEEPER = "no other file that may keep these weights is there; it stays as it is"


class _Hidden(NamedTuple):
    """What an action has put aside: where it lies now, and (`home`) the name that it had."""

    entry: Entry
    here: Reached
    home: Reached


class _Freeing(NamedTuple):
    """An action whose file, or folder, is about to be removed: `files`, each with the one that it goes for."""

    entry: Entry
    hidden: Reached
    files: list[tuple[Held, Held]]
    recipe: bytes


def free(context: Context, orders: Sequence[FreeOrder], progress: Progress) -> list[Result]:
    """Remove what these actions have put aside. Each result is `freed` or `linked`, or `waiting` with the reason.

    So many go at once as their recipes fit into memory. Raises sqlite3.Error; what was begun is settled by repair.
    """
    waiting: list[Entry] = []
    unlike: set[int] = set()
    rest: Sequence[FreeOrder] = ()
    with ExitStack() as stack:
        ready: list[_Freeing] = []
        for number, order in enumerate(orders, start=1):
            entry = context.journal.get(order.number)
            if entry is None or entry.state not in HELD:
                continue
            try:
                ready.append(_prepare(context, entry, order, stack, progress))
            except (FileError, OSError, EOFError, recipe.Unfit) as error:
                waiting.append(_waits(entry, error))
                if isinstance(error, Differs):
                    unlike.add(entry.id)
            if sum(len(each.recipe) for each in ready) > _RECIPES:
                rest = orders[number:]
                break
        context.at("proven")
        entries = context.journal.update_all(
            [msgspec.structs.replace(each.entry, state="freeing", before=each.entry.state) for each in ready],
            {each.entry.id: each.recipe for each in ready},
        )
        context.at("freeing")
        sync_all([fd for each in ready for _, kept in each.files for fd in (kept.fd, kept.folder)])
        done = [_remove(context, entry, each) for entry, each in zip(entries, ready, strict=True)]
        sync_all([each.hidden.folder for each in ready])
        context.at("removal synced")
        finished = context.journal.update_all(done)
        context.at("freed")
    # What waits as it did is not written down again at each try.
    context.journal.update_all([entry for entry in waiting if entry != context.journal.get(entry.id)])
    finished += waiting
    for entry in finished:
        if entry.kind.quarantines and entry.state == "freed":
            clear(context, entry)
    results = [
        msgspec.structs.replace(result_of(context, entry), differs=entry.id in unlike) for entry in finished
    ]
    return results + (free(context, rest, progress) if rest else [])


def _prepare(context: Context, entry: Entry, order: FreeOrder, stack: ExitStack, progress: Progress) -> _Freeing:
    """Hold what goes, and the first of the keepers that it can be made from. Raises Refused, Unfit and OSError."""
    home = stack.enter_context(reach(entry.gone.root, entry.gone.path))
    at = stack.enter_context(place(context, entry)) if entry.kind.quarantines else None
    here = Reached(entry.gone.root, entry.gone.path, *where(entry, home.folder, at))
    status = here.status()
    if status is not None and status.st_ino != entry.gone.identity.ino:
        raise Refused.about(path_in(context, entry), "it is another file than the one that was put aside")
    entry = msgspec.structs.replace(entry, folder=Folder.of(home.folder))
    prove = _prove_folder if entry.unit else _prove_file
    trouble: Exception = Refused.about(entry.gone.path, order.why or _NO_KEEPER)
    for side in order.keepers:
        with ExitStack() as mine:
            try:
                ready = prove(context, _Hidden(entry, here, home), side, mine, progress)
                for held, kept in ready.files:
                    held.look()
                    kept.look_in_place()
            except (FileError, OSError, EOFError, recipe.Unfit) as error:
                trouble = error
                continue
            stack.push(mine.pop_all())
            return ready
    raise trouble


def _prove_file(context: Context, one: _Hidden, keeper: Side, stack: ExitStack, progress: Progress) -> _Freeing:
    entry, name = one.entry, one.home.name
    held = stack.enter_context(hold(one.here, None))
    kept = stack.enter_context(hold(stack.enter_context(reach(keeper.root, keeper.path)), None))
    ours, theirs = function_of(held, name, one.home.folder), function_of(kept)
    if ours[0] != theirs[0] or (ours[1] != theirs[1] and not entry.kind.links):
        raise Refused.about(kept.path, "it has another function by now than the file that was put aside for it")
    body = recipe.make(Layers(kept), Layers(held, name), watchful(held, kept, progress))
    _rehearse(context, one, [entry.attributes])
    return _Freeing(entry, one.here, [(held, kept)], body)


def _prove_folder(context: Context, one: _Hidden, keeper: Side, stack: ExitStack, progress: Progress) -> _Freeing:
    files, parts = units.prove(one.here, keeper, stack, progress)
    _rehearse(context, one, [part.attributes for part in parts if part.recipe])
    return _Freeing(one.entry, one.here, files, units.encode(parts))


def _rehearse(context: Context, one: _Hidden, each: Iterable[Attributes]) -> None:
    with doing("make a file in its folder, as giving it back would need"):
        for attributes in each:
            rehearse(attributes, one.home.folder, context.temp(one.entry))


def _remove(context: Context, entry: Entry, each: _Freeing) -> Entry:
    """Remove one, all of it or nothing; the entry as it is to be written down."""
    removed: list[Held] = []
    freed = 0
    try:
        for held, kept in each.files:
            kept.look_in_place()
            held.look()
        for held, _ in each.files:
            # Blocks that it shares with others are not free for that.
            freed += unshared_bytes(held.fd) if held.before.st_nlink == 1 else 0
            with doing("remove it (unlink)"):
                os.unlink(held.name, dir_fd=held.folder)
            removed.append(held)
            context.at("removed")
        for _, kept in each.files:
            kept.look_in_place()
    except (FileError, OSError) as error:
        try:
            for held in removed:
                entry = _written_anew(context, entry, held)
            return _waits(entry, error)
        except OSError as trouble:
            text = f"the kept file went while it was removed, and it could not be written anew: {told(trouble)}"
            return msgspec.structs.replace(entry, state=entry.kind.final, before="", rebuild=True, text=text)
    if entry.unit:
        units.clear(each.recipe, each.hidden.folder, each.hidden.name)
        context.at("folder removed")
    size = min(entry.bytes, freed)
    return msgspec.structs.replace(entry, state=entry.kind.final, before="", rebuild=True, bytes=size, text="")


def _written_anew(context: Context, entry: Entry, held: Held) -> Entry:
    """The kept file went in the last instant: this one is written anew under its hidden name."""
    temp = context.temp(entry)
    with closing_fd(make_file(held.folder, temp)) as fd:
        write_all(fd, pieces(held.fd, 0, held.before.st_size))
        context.at("written anew")
        Attributes.of(held.fd, held.before).give(fd)
        os.fsync(fd)
        identity = Identity.of(os.fstat(fd))
    os.rename(temp, held.name, src_dir_fd=held.folder, dst_dir_fd=held.folder)
    context.at("renamed anew")
    os.fsync(held.folder)
    if entry.unit:
        return entry
    return msgspec.structs.replace(entry, gone=msgspec.structs.replace(entry.gone, identity=identity))


def _waits(entry: Entry, error: Exception) -> Entry:
    """Not removed, and why."""
    action = entry.kind
    state = action.state if action.quarantines else "waiting"
    text = told(error) if isinstance(error, OSError) else str(error)
    return msgspec.structs.replace(entry, state=state, before="", text=spoken(text))
