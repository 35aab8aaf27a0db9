"""Bringing what was cut short to all before or all after, by what lies on the disk.

The same code takes back an action that was refused halfway and repairs one whose process died. It goes by names
and inode numbers: device numbers may be others after the system was started again, and times may be others too if
somebody found the file meanwhile, which makes it no less his. What is not there proves nothing before the folder
proves to be the one that was acted in: a disk may not be mounted, a folder may have been moved and made anew.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from contextlib import suppress

import msgspec

from loracore.errors import FileError
from loracore.identity import Identity
from lorad.dedupe.action import links, quarantine, reflink, sidecars, units
from lorad.dedupe.action.entry import UNFINISHED, Entry, old_temp
from lorad.dedupe.action.hidden import path_in, result_of, shown_at
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.journal_file import RECIPES
from lorad.dedupe.action.order import HELD, Refused, Result, spoken
from lorad.dedupe.action.place import Folder, Reached, closing_fd, exchange, reach, rename_new, to_free_name
from lorad.watch import timed_calls

_LOG = logging.getLogger(__name__)
_INTERRUPTED = "it was interrupted; nothing was changed"


class Pending(Exception):
    """It cannot be settled now; the message says what it waits for."""


#: What can go wrong with a file, as opposed to a mistake of ours.
TROUBLE = (FileError, OSError, EOFError, Pending)


def repair(context: Context) -> list[Result]:
    """Settle what was interrupted, oldest first, and write down what came back without the journal.

    Safe to be interrupted itself, and to be run again. What cannot be settled yet, as its disk is not mounted or
    its folder was moved, keeps its state and says what it waits for.
    """
    results = [_repair(context, entry) for entry in context.journal.unfinished()]
    _sweep_old_recipes(context)
    return results + record_shown(context)


def record_shown(context: Context) -> list[Result]:
    """Files that were given back while the journal could not be written: their actions are over."""
    shown = []
    for entry in context.journal.in_state(*HELD):
        path = shown_at(entry.gone.path, entry.gone.identity.ino)
        if path:
            with suppress(OSError, FileError):
                shown.append((finish_shown(context, entry, "given_back"), path))
    # Where it still cannot be written, that is for the next time.
    with suppress(sqlite3.Error):
        context.journal.update_all([entry for entry, _ in shown])
    return [result_of(context, entry, shown=path) for entry, path in shown]


def finish_shown(context: Context, entry: Entry, state: str) -> Entry:
    """A file has its name again: remove the link that was there, and give its sidecars theirs back.

    Raises Refused where another file has its hidden name: one that came to its name when it was given back.
    """
    with reach(entry.gone.root, entry.gone.path) as reached, quarantine.place(context, entry) as place:
        folder, name = quarantine.where(entry, reached.folder, place)
        aside = status_in(folder, name)
        if links.is_ours(entry, reached, name, aside) or is_same(aside, reached.status()):
            os.unlink(name, dir_fd=folder)
        elif aside is not None:
            raise Refused.about(path_in(context, entry), "it is another file; undo the action to give it a name")
        taken = sidecars.put_back(context, entry, reached, place)
        os.fsync(reached.folder)
    quarantine.clear(context, entry)
    return msgspec.structs.replace(entry, state=state, text=with_taken("", taken))


def settle(context: Context, entry: Entry, reached: Reached, text: str) -> Entry:
    """Bring an action that is under way to an end; the entry in its final state, with `text` as the reason.

    Raises Pending, Refused and OSError where it cannot be done yet.
    """
    if not entry.folder.may_be(Folder.of(reached.folder)):
        folder = os.fsdecode(os.path.dirname(entry.gone.path))
        raise Pending(
            f"{folder} is not the folder that it was begun in; mount its disk, or bring that folder back"
        )
    match entry.state:
        case "undoing":
            return _settle_undo(context, entry, reached, text)
        case "freeing":
            return _settle_freeing(context, entry, reached, text)
    if not entry.kind.hides:
        return context.journal.update(entry, state="refused", bytes=0, text=text)
    return _take_back(context, entry, reached, text)


def _repair(context: Context, entry: Entry) -> Result:
    try:
        # Where that does not answer, the others need not wait for it.
        timed_calls.stat(entry.gone.root)
        with reach(entry.gone.root, entry.gone.path) as reached:
            now = settle(context, entry, reached, _INTERRUPTED)
    except Exception as error:
        # Whatever it is, it must not keep the others from being brought to an end.
        if not isinstance(error, FileError | Pending | OSError | EOFError | sqlite3.Error):
            _LOG.exception("repair of action %d", entry.id)
        reason = f"it was interrupted and waits: {error}"
        now = context.journal.get(entry.id) or entry
        if spoken(reason) != now.text:
            with suppress(OSError, sqlite3.Error):
                now = context.journal.update(now, text=reason)
        return result_of(context, now, text=reason)
    return result_of(context, now)


def _take_back(context: Context, entry: Entry, reached: Reached, text: str) -> Entry:
    """The file stands at its name, at its hidden name, or in quarantine: it gets its name back."""
    with quarantine.place(context, entry) as place:
        folder, name = quarantine.where(entry, reached.folder, place)
        aside, there = status_in(folder, name), reached.status()
        if aside is None:
            _refuse_unsure(entry, reached, there)
        elif aside.st_ino != entry.gone.identity.ino:
            _drop_link(context, entry, reached, name, aside)
        elif there is None:
            rename_new(folder, name, reached.folder, reached.name)
        elif there.st_ino == aside.st_ino:
            os.unlink(name, dir_fd=folder)
        elif links.is_ours(entry, reached, reached.name, there):
            exchange(reached.folder, name, reached.name)
            os.unlink(name, dir_fd=reached.folder)
        else:
            state = entry.kind.state
            return context.journal.update(entry, state=state, text="another file has its name now; it stays aside")
        os.fsync(reached.folder)
        context.at("taken back")
        taken = sidecars.put_back(context, entry, reached, place)
    quarantine.clear(context, entry)
    return context.journal.update(entry, state="refused", bytes=0, text=with_taken(text, taken))


def _drop_link(context: Context, entry: Entry, reached: Reached, name: bytes, aside: os.stat_result) -> None:
    """Remove the link that was made under the hidden name, unless it is the only name of what it leads to."""
    there = reached.status()
    if name == old_temp(context.journal.token, entry.id) and stat.S_ISREG(aside.st_mode) and not aside.st_size:
        # An earlier version has tried attributes on it.
        os.unlink(name, dir_fd=reached.folder)
    if not links.is_ours(entry, reached, name, aside):
        return
    only = stat.S_ISREG(aside.st_mode) and aside.st_size and aside.st_nlink == 1
    if only and (there is None or there.st_ino != entry.gone.identity.ino):
        path = os.fsdecode(os.path.join(os.path.dirname(entry.gone.path), name))
        raise Pending(f"{path} is the only name of what was {os.fsdecode(entry.kept.path)}; give it one")
    os.unlink(name, dir_fd=reached.folder)


def _refuse_unsure(entry: Entry, reached: Reached, there: os.stat_result | None) -> None:
    """Raises Pending where what is missing may as well lie in another folder of the same name."""
    found = there is not None and (
        there.st_ino == entry.gone.identity.ino or links.is_ours(entry, reached, reached.name, there)
    )
    if not found and not entry.folder.is_surely(Folder.of(reached.folder)):
        path = os.fsdecode(entry.gone.path)
        raise Pending(
            f"{path} is not there as it was; the folder may be another one of the same name: mount its disk or "
            "bring it back"
        )


def _settle_freeing(context: Context, entry: Entry, reached: Reached, text: str) -> Entry:
    """It was removed, or is still there."""
    with quarantine.place(context, entry) as place:
        folder, name = quarantine.where(entry, reached.folder, place)
        temp, aside = context.temp(entry), status_in(folder, name)
        anew = status_in(folder, temp)
        if aside is None and anew is not None and anew.st_size == entry.gone.identity.size:
            # The kept file went in the last instant, and all of this one was written anew.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            with closing_fd(os.open(temp, flags, dir_fd=folder)) as fd:
                entry.attributes.give(fd)
            rename_new(folder, temp, folder, name)
            gone = msgspec.structs.replace(entry.gone, identity=Identity.of(anew))
            aside, entry = anew, msgspec.structs.replace(entry, gone=gone)
        elif anew is not None:
            os.unlink(temp, dir_fd=folder)
        body = context.journal.recipe(entry.id)
        if aside is not None and not (entry.unit and units.is_removed(body, folder, name)):
            return context.journal.update(entry, state=entry.before or "hidden", text=text)
        if place is None or not entry.kind.quarantines:
            _refuse_unsure(entry, reached, None)
    # There is a digest where an earlier version removed it.
    return context.journal.update(entry, state=entry.kind.final, before="", rebuild=not entry.digest, text="")


def _settle_undo(context: Context, entry: Entry, reached: Reached, text: str) -> Entry:
    if not entry.kind.hides:
        reflink.restore_times(entry, reached)
        return context.journal.update(entry, state="shared", text=text)
    temp = context.temp(entry)
    aside, there = reached.status(temp), reached.status()
    # An earlier version has so written down that it gave a file in quarantine its name back.
    made = entry.restored or (entry.gone.identity.ino if entry.before == "quarantined" else 0)
    shown = shown_at(entry.gone.path, made) if made else b""
    if shown and aside is not None and is_same(aside, there):
        os.unlink(temp, dir_fd=reached.folder)
    elif shown and aside is not None:
        if links.is_ours(entry, reached, temp, aside):
            os.unlink(temp, dir_fd=reached.folder)
        else:
            # It came to the name just when the two changed places.
            to_free_name(reached, reached.folder, temp)
    if shown:
        return context.journal.update(finish_shown(context, entry, "undone"))
    if aside is not None and (not entry.restored or aside.st_ino == entry.restored):
        # The copy, which is no only one: what it was made from is still there.
        units.remove(reached.folder, temp)
        os.fsync(reached.folder)
    return context.journal.update(entry, state=entry.before or entry.kind.final, restored=0, text=text)


def is_same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and os.path.samestat(one, other)


def status_in(folder: int, name: bytes) -> os.stat_result | None:
    """What has a name in an open folder, not followed; None for nothing."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def with_taken(text: str, taken: list[bytes]) -> str:
    """`text`, and which sidecars could not get their names back."""
    if not taken:
        return text
    names = ", ".join(map(os.fsdecode, taken))
    return f"{text}; " * bool(text) + f"other files have the names {names} now, so these stay aside"


def _sweep_old_recipes(context: Context) -> None:
    """Remove recipe files of earlier versions that nothing is made from any more."""
    folder = os.path.join(context.state_dir, RECIPES)
    with suppress(FileNotFoundError):
        for name in os.listdir(folder):
            entry = context.journal.get(int(name)) if name.isdecimal() else None
            if name.isdecimal() and (entry is None or entry.state not in ("freed", "linked", *UNFINISHED)):
                os.unlink(os.path.join(folder, name))
