"""Where a file lies that an action has put aside, also after its folder was moved, and what came of an action."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice

import msgspec

from lorad.dedupe.action import quarantine
from lorad.dedupe.action.entry import Entry
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.order import Result
from lorad.dedupe.action.place import free_names
from lorad.library.keepers import is_inside
from lorad.watch import timed_calls
from lorad.watch.scanner import HIDDEN, walk

#: Names like its own, under which a file that was given back is looked for.
_NAMES = 8


def path_of(state_dir: str, token: str, entry: Entry) -> bytes:
    """Where the file is that an action has put aside. `token`: that of the journal in the state folder."""
    if entry.place and entry.kind.quarantines:
        return quarantine.path_of(state_dir, token, entry)
    return os.path.join(os.path.dirname(entry.gone.path), entry.aside)


def path_in(context: Context, entry: Entry) -> bytes:
    """The same for an actor."""
    return path_of(context.state_dir, context.journal.token, entry)


def result_of(
    context: Context, entry: Entry, *, text: str | None = None, state: str = "", shown: bytes = b""
) -> Result:
    """What came of an action, with where its file is. `text` and `state`: instead of those written down."""
    result, aside = entry.result(text), path_in(context, entry)
    return msgspec.structs.replace(result, state=state or entry.state, aside=aside, shown=shown)


def shown_at(path: bytes, ino: int) -> bytes:
    """Where an inode has a name again: `path`, or one like it; empty where it has none."""
    folder, name = os.path.split(path)
    for each in (name, *islice(free_names(name), _NAMES)):
        with suppress(OSError):
            if timed_calls.stat(there := os.path.join(folder, each), follow_symlinks=False).st_ino == ino:
                return there
    return b""


def find(
    roots: Iterable[bytes], token: str, wanted: Mapping[int, Entry]
) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Where these hidden files lie under the roots now, by number of action; and where we may not write.

    A folder that was moved took what was hidden in it along; one that was copied has a copy. The file itself goes
    before a copy with its time, and that before any of its size.
    """
    found: dict[int, tuple[int, bytes]] = {}
    unusable: dict[int, bytes] = {}

    def meet(path: bytes) -> None:
        match = HIDDEN.fullmatch(os.path.basename(path))
        ours = match is not None and match["token"] == token.encode()
        entry = wanted.get(int(match["id"][:18])) if match is not None and ours else None
        likeness = 0 if entry is None else likeness_of(path, entry)
        if entry is None or not likeness:
            return
        if not os.access(os.path.dirname(path), os.W_OK):
            unusable[entry.id] = path
        elif likeness > found.get(entry.id, (0, b""))[0]:
            found[entry.id] = likeness, path

    for _ in walk(list(roots), follow=False, hidden=meet):
        pass
    return {number: path for number, (_, path) in found.items()}, unusable


def is_link(path: bytes) -> bool:
    """Whether a symbolic link stands at this name."""
    with suppress(OSError):
        return stat.S_ISLNK(timed_calls.stat(path, follow_symlinks=False).st_mode)
    return False


def likeness_of(path: bytes, entry: Entry) -> int:
    """How much speaks for a file's being the one that was hidden; 0 where it is not."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    was = entry.gone.identity
    if status.st_ino == was.ino:
        return 3
    if os.path.basename(path) != entry.aside:
        # Of another action of this number, where the journal is from a backup.
        return 0
    if entry.unit:
        return int(stat.S_ISDIR(status.st_mode))
    if not stat.S_ISREG(status.st_mode) or status.st_size != was.size:
        return 0
    return 2 if status.st_mtime_ns == was.mtime_ns else 1


def is_lost(entry: Entry) -> bool:
    """Whether what was put aside and is not found is gone: its folder is there, or was removed from its disk.

    An empty folder below the root may be where a part of that disk is mounted at other times.
    """
    own = folder = os.path.dirname(entry.gone.path)
    while is_inside(folder, entry.gone.root):
        try:
            status = timed_calls.stat(folder)
            known = folder == entry.gone.root or (folder == own and status.st_ino == entry.folder.ino)
            same_disk = status.st_dev == entry.gone.identity.dev
            return same_disk and (known or bool(timed_calls.do(folder, os.listdir, folder)))
        except (FileNotFoundError, NotADirectoryError):
            folder = os.path.dirname(folder)
        except OSError:
            return False
    return False
