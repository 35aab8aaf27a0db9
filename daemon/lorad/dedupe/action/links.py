"""The actions `hardlink` and `symlink`: a link to the kept file stands in a file's place.

The link is made under the hidden name, and the two names change places at once: the path leads to one of the two
files at every moment, and the file that went has its hidden name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import msgspec

from loracore import causes
from loracore.causes import doing
from lorad.dedupe.action.attributes import Attributes
from lorad.dedupe.action.hold import Held
from lorad.dedupe.action.journal import Context, Entry, hidden_name
from lorad.dedupe.action.order import HELD, Refused, Side
from lorad.dedupe.action.place import Folder, Reached, exchange, reach, rename_new, sync_all, to_free_name


def target_of(kept: bytes, gone: bytes, *, one_root: bool) -> bytes:
    """What a symbolic link at `gone` says: relative in one root, so that the root may be moved; else absolute."""
    return os.path.relpath(kept, os.path.dirname(gone)) if one_root else kept


def refuse_other_access(kept: Held, gone: Held, attributes: Attributes) -> None:
    """A link has the owner, mode and ACL of what it leads to: who could read it must still, and no one else."""
    if not attributes.same_access(Attributes.of(kept.fd, kept.before)):
        raise Refused.about(gone.path, causes.OTHER_ACCESS)


def is_ours(entry: Entry, reached: Reached, name: bytes, status: os.stat_result | None) -> bool:
    """Whether what stands at a name is the link that this action has made."""
    if status is None:
        return False
    if entry.action == "symlink":
        return stat.S_ISLNK(status.st_mode) and os.readlink(name, dir_fd=reached.folder) in entry.targets
    return (
        entry.action == "hardlink"
        and stat.S_ISREG(status.st_mode)
        and status.st_ino == entry.kept.identity.ino != entry.gone.identity.ino
    )


def replace(context: Context, entry: Entry, kept: Held, gone: Held) -> None:
    """Let the link and the file change places. Raises Refused and OSError."""
    _make_link(entry, kept, gone)
    context.at("link made")
    if not os.path.samestat(os.stat(entry.aside, dir_fd=gone.folder), kept.before):
        raise Refused.about(
            gone.path, f"a link in its place would not lead to {os.fsdecode(kept.path)}; scan again"
        )
    with doing(causes.EXCHANGE):
        exchange(gone.folder, entry.aside, gone.name)


def retarget(context: Context, entry: Entry, kept: Side, prove: Callable[[], None]) -> Entry:
    """Lead a symbolic link of ours to where the kept file is now.

    `prove` raises Refused where that is not what the link should lead to; it is asked once the link is known to be
    ours. Raises Refused where it is not.
    """
    target = target_of(kept.path, entry.gone.path, one_root=kept.root == entry.gone.root)
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


def _make_link(entry: Entry, kept: Held, gone: Held) -> None:
    if entry.action == "symlink":
        with doing(causes.SYMLINK):
            os.symlink(entry.target, entry.aside, dir_fd=gone.folder)
        return
    # By the descriptor, not by the name: the link is to the file that was compared, and to no other.
    with doing(causes.LINK):
        os.link(b"/proc/self/fd/%d" % kept.fd, entry.aside, dst_dir_fd=gone.folder, follow_symlinks=True)


def pointing(entry: Entry, kept: Side) -> Entry:
    """The entry of a new symbolic link, with what it says."""
    target = target_of(kept.path, entry.gone.path, one_root=kept.root == entry.gone.root)
    return msgspec.structs.replace(entry, target=target, targets=(target,))
