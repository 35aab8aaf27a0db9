"""Bringing what was cut short to all before or all after, by what lies on the disk.

The same code takes back an action that was refused halfway and repairs one whose process died. It goes by names
and inode numbers: device numbers may be others after the system was started again, and times may be others too if
somebody found the file meanwhile, which makes it no less his. What is not there proves nothing before the folder
proves to be the one that was acted in: a disk may not be mounted, a folder may have been moved and made anew.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice

import msgspec

from loracore.errors import FileError
from lorad.dedupe.action import links, quarantine, reflink, sidecars
from lorad.dedupe.action.journal import RECIPES, UNFINISHED, Context, Entry
from lorad.dedupe.action.order import Result, spoken
from lorad.dedupe.action.place import Folder, Reached, exchange, reach, rename_new

_LOG = logging.getLogger(__name__)
#: Names like its own, under which a file that was given back is looked for.
_NAMES = 8
_INTERRUPTED = "it was interrupted; nothing was changed"


class Pending(Exception):
    """It cannot be settled now; the message says what it waits for."""


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
    for entry in context.journal.in_state("hidden", "waiting", "quarantined"):
        path = shown_at(entry)
        if path:
            with suppress(OSError, FileError):
                shown.append((finish_shown(context, entry, "given_back"), path))
    context.journal.update_all([entry for entry, _ in shown])
    return [
        msgspec.structs.replace(entry.result(), aside=aside_of(context, entry), shown=path)
        for entry, path in shown
    ]


def shown_at(entry: Entry) -> bytes:
    """Where a file that was put aside has a name again: its own, or one like it; empty where it has none."""
    folder, name = os.path.split(entry.gone.path)
    for each in (name, *islice(free_names(name), _NAMES)):
        with suppress(OSError):
            if os.lstat(path := os.path.join(folder, each)).st_ino == entry.gone.identity.ino:
                return path
    return b""


def free_names(name: bytes) -> Iterator[bytes]:
    """Names for a file that is given back where its own is taken."""
    stem, ending = os.path.splitext(name)
    yield stem + b" (given back)" + ending
    for number in range(2, 1000):
        yield stem + b" (given back) (%d)" % number + ending


def finish_shown(context: Context, entry: Entry, state: str) -> Entry:
    """A file has its name again: remove the link that was there, and give its sidecars theirs back."""
    with reach(entry.gone.root, entry.gone.path) as reached, quarantine.place(context, entry) as place:
        if links.is_ours(entry, reached, entry.aside, reached.status(entry.aside)):
            os.unlink(entry.aside, dir_fd=reached.folder)
        taken = sidecars.put_back(context, entry, reached, place)
        os.fsync(reached.folder)
    quarantine.clear(context, entry)
    return msgspec.structs.replace(entry, state=state, text=with_taken("", taken))


def aside_of(context: Context, entry: Entry) -> bytes:
    """Where the file is that an action has put aside."""
    if entry.place and entry.action == "quarantine":
        return quarantine.path_of(context.state_dir, context.journal.token, entry)
    return os.path.join(os.path.dirname(entry.gone.path), entry.aside)


def find_hidden(roots: Iterable[bytes], token: str, wanted: Mapping[int, Entry]) -> dict[int, bytes]:
    """Where these hidden files lie under the roots now, by the numbers of their actions.

    A folder that was moved took what was hidden in it along; one that was copied has a copy. The file itself goes
    before a copy with its time, and that before any of its size.
    """
    pattern = re.compile(rb"\..+\.aside-%s-(\d{1,18})" % token.encode(), re.DOTALL)
    found: dict[int, tuple[int, bytes]] = {}
    for root in roots:
        for folder, folders, names in os.walk(root):
            for name in (*folders, *names):
                match = pattern.fullmatch(name)
                entry = wanted.get(int(match[1])) if match else None
                if entry is None or not os.access(folder, os.W_OK):
                    continue
                likeness = _likeness(os.path.join(folder, name), entry)
                if likeness > found.get(entry.id, (0, b""))[0]:
                    found[entry.id] = likeness, os.path.join(folder, name)
    return {number: path for number, (_, path) in found.items()}


def _likeness(path: bytes, entry: Entry) -> int:
    """How much speaks for a file's being the one that was hidden; 0 where it is not."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    was = entry.gone.identity
    if status.st_ino == was.ino:
        return 3
    if entry.unit:
        return int(stat.S_ISDIR(status.st_mode))
    if not stat.S_ISREG(status.st_mode) or status.st_size != was.size:
        return 0
    return 2 if status.st_mtime_ns == was.mtime_ns else 1


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
    if entry.action == "reflink":
        return context.journal.update(entry, state="refused", bytes=0, text=text)
    return _take_back(context, entry, reached, text)


def _repair(context: Context, entry: Entry) -> Result:
    try:
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
    return msgspec.structs.replace(now.result(), aside=aside_of(context, now))


def _take_back(context: Context, entry: Entry, reached: Reached, text: str) -> Entry:
    """The file stands at its name, at its hidden name, or in quarantine: it gets its name back."""
    with quarantine.place(context, entry) as place:
        at_place = place if entry.action == "quarantine" else None
        folder, name = (reached.folder, entry.aside)
        if at_place is not None:
            folder, name = at_place, quarantine.name_in(entry)
        aside, there = _status(folder, name), reached.status()
        if aside is None:
            _refuse_unsure(entry, reached, there)
        elif aside.st_ino != entry.gone.identity.ino:
            _drop_link(entry, reached, name, aside, there)
        elif there is None:
            rename_new(folder, name, reached.folder, reached.name)
        elif there.st_ino == aside.st_ino:
            os.unlink(name, dir_fd=folder)
        elif links.is_ours(entry, reached, reached.name, there):
            exchange(reached.folder, name, reached.name)
            os.unlink(name, dir_fd=reached.folder)
        else:
            state = "quarantined" if entry.action == "quarantine" else "hidden"
            return context.journal.update(entry, state=state, text="another file has its name now; it stays aside")
        os.fsync(reached.folder)
        context.at("taken back")
        taken = sidecars.put_back(context, entry, reached, place)
    quarantine.clear(context, entry)
    return context.journal.update(entry, state="refused", bytes=0, text=with_taken(text, taken))


def _drop_link(
    entry: Entry, reached: Reached, name: bytes, aside: os.stat_result, there: os.stat_result | None
) -> None:
    """Remove the link that was made under the hidden name, unless it is the only name of what it leads to."""
    only = stat.S_ISREG(aside.st_mode) and aside.st_size and aside.st_nlink == 1
    if not links.is_ours(entry, reached, name, aside):
        return
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
        at_place = place if entry.action == "quarantine" else None
        folder, name = (reached.folder, entry.aside)
        if at_place is not None:
            folder, name = at_place, quarantine.name_in(entry)
        if _status(folder, name) is not None:
            return context.journal.update(entry, state=entry.before or "hidden", text=text)
        if at_place is None:
            _refuse_unsure(entry, reached, None)
    return context.journal.update(entry, state=final_state(entry), before="", rebuild=True, text="")


def final_state(entry: Entry) -> str:
    """The state of an action once what it had put aside is removed."""
    return "linked" if entry.action == "hardlink" else "freed"


def _settle_undo(context: Context, entry: Entry, reached: Reached, text: str) -> Entry:
    if entry.action == "reflink":
        reflink.restore_times(entry, reached)
        return context.journal.update(entry, state="shared", text=text)
    temp = context.temp(entry)
    aside, there = reached.status(temp), reached.status()
    if entry.restored and there is not None and there.st_ino == entry.restored:
        if aside is not None and links.is_ours(entry, reached, temp, aside):
            os.unlink(temp, dir_fd=reached.folder)
        return context.journal.update(finish_shown(context, entry, "undone"))
    if aside is not None and (not entry.restored or aside.st_ino == entry.restored):
        # The copy, which is no only one: what it was made from is still there.
        os.unlink(temp, dir_fd=reached.folder)
        os.fsync(reached.folder)
    return context.journal.update(entry, state=entry.before or final_state(entry), restored=0, text=text)


def _status(folder: int, name: bytes) -> os.stat_result | None:
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
