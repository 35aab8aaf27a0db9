"""Letting a hard or symbolic link stand in a file's place.

The link is made under a temporary name and the two names change places at once, so that the path leads to one of
the two files at every moment. The old file keeps a name until everything was looked at again.
"""

from __future__ import annotations

import errno
import os
import stat

from lorad.dedupe import syscalls
from lorad.dedupe.aside import VISITED, keep_aside
from lorad.dedupe.attributes import rehearse
from lorad.dedupe.guard import Held
from lorad.dedupe.journal import Entry
from lorad.dedupe.orders import Refused, Side
from lorad.dedupe.reach import Reached
from lorad.dedupe.site import Site
from lorad.dedupe.trouble import doing

_CANNOT = {
    errno.EXDEV: "a hard link cannot lead to another file system or mount; order symlink or quarantine",
    errno.EMLINK: "its twin has as many hard links as its file system allows; order symlink or quarantine",
    errno.EINVAL: "its file system cannot exchange two names at once; order quarantine",
    errno.ENOSYS: "this system cannot exchange two names at once; order quarantine",
}


def link_target(kept: Side, gone: Side) -> bytes:
    """What a symbolic link at `gone` says: relative in one root, so that the root may be moved; else absolute."""
    return os.path.relpath(kept.path, os.path.dirname(gone.path)) if kept.root == gone.root else kept.path


def is_new(entry: Entry, reached: Reached, name: bytes, status: os.stat_result | None) -> bool:
    """Whether what stands at the name is the link that this action has made, or was brought back in its place."""
    if status is None:
        return False
    if entry.action == "symlink":
        return stat.S_ISLNK(status.st_mode) and os.readlink(name, dir_fd=reached.folder) == entry.target
    inodes = (entry.kept.identity.ino, entry.stands)
    return entry.action == "hardlink" and stat.S_ISREG(status.st_mode) and status.st_ino in inodes


def replace(site: Site, entry: Entry, kept: Held, gone: Held) -> Entry:
    """Carry out `hardlink` and `symlink`. Raises Refused and OSError; then `settle` takes back what was begun.

    The kept file is on the disk, by its name, before the other one's last name goes (fsync of both).
    """
    temp = site.temp(entry)
    rehearse(entry.attributes, gone.folder, temp)
    site.at("attributes rehearsed")
    os.fsync(kept.fd)
    os.fsync(kept.folder)
    _make_link(entry, kept, gone, temp)
    site.at("temp made")
    renamed = entry.action == "hardlink"
    kept.look_in_place(renamed=renamed)
    gone.look_in_place()
    _check_link(entry, kept, gone, temp)
    site.at("checked")
    try:
        with doing("put the link in its place (rename)"):
            syscalls.exchange(gone.folder, temp, gone.name)
    except OSError as error:
        raise _cannot(gone.path, error) from error
    site.at("exchanged")
    os.fsync(gone.folder)
    site.at("folder synced")
    _look_again(entry, kept, gone, temp)
    if kept.visited:
        return keep_aside(site, entry, gone.reached, VISITED)
    entry = site.journal.update(entry, state="removing")
    site.at("removing")
    _look_again(entry, kept, gone, temp)
    if kept.visited:
        return keep_aside(site, entry, gone.reached, VISITED)
    with doing("remove it (unlink)"):
        os.unlink(temp, dir_fd=gone.folder)
    site.at("removed")
    os.fsync(gone.folder)
    site.at("removal synced")
    entry = site.journal.update(entry, state="done")
    site.at("done")
    return entry


def _make_link(entry: Entry, kept: Held, gone: Held, temp: bytes) -> None:
    if entry.action == "symlink":
        with doing("make a link in its folder (symlink)"):
            os.symlink(entry.target, temp, dir_fd=gone.folder)
        return
    try:
        # By the descriptor, not by the name: the link is to the file that was compared, and to no other.
        with doing(
            f"link {os.fsdecode(kept.path)} in its place (link)",
            forbidden="clear the immutable or append-only flag of that file (chattr -i -a)",
        ):
            os.link(b"/proc/self/fd/%d" % kept.fd, temp, dst_dir_fd=gone.folder, follow_symlinks=True)
    except OSError as error:
        raise _cannot(gone.path, error) from error


def _check_link(entry: Entry, kept: Held, gone: Held, temp: bytes) -> None:
    """What the new name leads to is the kept file, also for those who will follow it."""
    if not os.path.samestat(os.stat(temp, dir_fd=gone.folder), kept.before):
        raise Refused.about(
            gone.path, f"a link in its place would not lead to {os.fsdecode(kept.path)}; scan again"
        )


def _look_again(entry: Entry, kept: Held, gone: Held, temp: bytes) -> None:
    """After the exchange: nobody waits to write to the old file, and each name leads to what it should.

    Who waits to write to the kept file may have come by either name. So the link is left to him, and the old file
    is not removed.
    """
    kept.look_at_place()
    gone.look(renamed=True)
    aside, there = gone.reached.status(temp), gone.reached.status()
    if (
        aside is None
        or not os.path.samestat(aside, gone.before)
        or not is_new(entry, gone.reached, gone.name, there)
    ):
        raise Refused.about(gone.path, "it was moved or replaced meanwhile; scan again")
    if not gone.reached.in_place():
        raise Refused.about(gone.path, "its folder was moved meanwhile; scan again")


def _cannot(path: bytes, error: OSError) -> OSError | Refused:
    reason = _CANNOT.get(error.errno or 0)
    return Refused.about(path, reason) if reason else error
