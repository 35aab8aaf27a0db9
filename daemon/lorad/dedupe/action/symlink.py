"""The action `symlink`: the file's name becomes a symbolic link, which is led on where the kept file is moved.

Where its owner moves the link itself, the file that it stands for goes along.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import msgspec

from loracore import causes
from loracore.causes import doing
from lorad.dedupe.action import recipe
from lorad.dedupe.action.compare import Layers, function_of
from lorad.dedupe.action.entry import Entry, hidden_name
from lorad.dedupe.action.hold import Held
from lorad.dedupe.action.journal import Context
from lorad.dedupe.action.links import Linking, is_ours
from lorad.dedupe.action.order import HELD, Refused, Side
from lorad.dedupe.action.place import Folder, Reached, exchange, reach, rename_new, sync_all, to_free_name
from lorad.dedupe.action.registry import register


@register
class SymbolicLink(Linking):
    name = "symlink"
    symbolic = True
    calls = (causes.SYMLINK, causes.EXCHANGE)

    def planned(self, context: Context, entry: Entry, gone: Reached) -> Entry:
        target = _target(entry, entry.kept)
        return msgspec.structs.replace(entry, target=target, targets=(target,))

    def make_link(self, entry: Entry, kept: Held, folder: int) -> None:
        with doing(causes.SYMLINK):
            os.symlink(entry.target, entry.aside, dir_fd=folder)

    def is_ours(self, entry: Entry, reached: Reached, name: bytes, status: os.stat_result) -> bool:
        return stat.S_ISLNK(status.st_mode) and os.readlink(name, dir_fd=reached.folder) in entry.targets


def _target(entry: Entry, kept: Side) -> bytes:
    """What the link says: relative in one root, so that the root may be moved; else absolute."""
    one_root = kept.root == entry.gone.root
    return os.path.relpath(kept.path, os.path.dirname(entry.gone.path)) if one_root else kept.path


def retarget(context: Context, entry: Entry, kept: Side, prove: Callable[[], None]) -> Entry:
    """Lead a symbolic link of ours to where the kept file is now.

    `prove` raises Refused where that is not what the link should lead to; it is asked once the link is known to be
    ours. Raises Refused where it is not.
    """
    target = _target(entry, kept)
    with reach(entry.gone.root, entry.gone.path) as reached:
        status = reached.status()
        if not is_ours(entry, reached, reached.name, status):
            raise Refused.about(entry.gone.path, "its link was removed or replaced; it is left as it is")
        prove()
        # Both are ours until it is done. Where the kept file is comes last: if killed, it is tried again.
        entry = context.journal.update(entry, targets=(*entry.targets[-7:], target))
        context.at("target noted")
        temp = context.temp(entry)
        with doing("lead its link to where the kept file is (symlink, rename)"):
            _clear(entry, reached, temp)
            os.symlink(target, temp, dir_fd=reached.folder)
            context.at("new link made")
            exchange(reached.folder, temp, reached.name)
            context.at("led on")
            ours = is_ours(entry, reached, temp, reached.status(temp))
            if not ours:
                # Another file came to stand there just now: it is given its name back.
                exchange(reached.folder, temp, reached.name)
            os.unlink(temp, dir_fd=reached.folder)
        if not ours:
            raise Refused.about(entry.gone.path, "its link was replaced meanwhile; it is left as it is")
        os.fsync(reached.folder)
        now = reached.status()
        entry = context.journal.update(entry, kept=kept, target=target, link=now.st_ino if now else 0)
        context.at("leads there")
    return entry


def follow(context: Context, entry: Entry, link: Side) -> Entry:
    """Go with a symbolic link of ours that was moved: what is hidden lies beside it then, and it leads on.

    Raises Refused where that link is not there, and OSError, as for a link that was moved to another disk.
    """
    with reach(link.root, link.path) as new:
        status = new.status()
        moved = link.path != entry.gone.path
        if status is None or (moved and status.st_ino != entry.link) or not is_ours(entry, new, new.name, status):
            raise Refused.about(link.path, "it is not the link that was moved; it is left as it is")
        aside = entry.aside
        if moved and entry.state in HELD:
            aside = hidden_name(new.name, context.journal.token, entry.id)
            with reach(entry.gone.root, entry.gone.path) as old:
                rename_new(old.folder, entry.aside, new.folder, aside)
                context.at("hidden beside its link")
                sync_all([old.folder, new.folder])
        gone = msgspec.structs.replace(entry.gone, path=link.path, root=link.root)
        entry = context.journal.update(entry, gone=gone, aside=aside, folder=Folder.of(new.folder))
        context.at("followed")
    return retarget(context, entry, entry.kept, lambda: None)


def _clear(entry: Entry, reached: Reached, temp: bytes) -> None:
    """Free the name for a new link, as it was left by one that was killed."""
    there = reached.status(temp)
    if is_ours(entry, reached, temp, there) or (there is not None and not there.st_size):
        os.unlink(temp, dir_fd=reached.folder)
    elif there is not None:
        # It came to the name of the link just when the two changed places.
        to_free_name(reached, reached.folder, temp)


def prove_same(context: Context, entry: Entry, held: Held) -> None:
    """Raises Refused where a file does not hold the layers of the one that was freed, or has another function."""
    body = context.journal.recipe(entry.id)
    if body is None or (entry.function != b"" and function_of(held)[0] != entry.function):
        raise Refused.about(held.path, "it does not do what the file did that was freed")
    try:
        for _ in recipe.rebuild(body, Layers(held)):
            pass
    except (ValueError, EOFError) as error:
        raise Refused.about(held.path, str(error)) from error
