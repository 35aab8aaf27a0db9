"""Why folders are not watched, in words that say what to do about it."""

from __future__ import annotations

import errno
import os

from lorad.watch.tree import Tree

_SYSCTL = "/proc/sys/fs/inotify"


def explain(tree: Tree) -> str:
    """The reason that holds for most: a limit before a folder that may not be read."""
    for reason in tree.unwatched.values():
        if isinstance(reason, OSError) and reason.errno == errno.ENOSPC:
            return (
                f"{tree.watched} of {tree.folders} folders are watched, as this user can have no more watches; "
                f"allow more: sysctl fs.inotify.max_user_watches={_more('max_user_watches', tree.folders)}"
            )
    folder, reason = next(iter(tree.unwatched.items()))
    more = f" and {len(tree.unwatched) - 1} more" if len(tree.unwatched) > 1 else ""
    if isinstance(reason, str):
        return f"{os.fsdecode(folder)}{more}: {reason}"
    word = (reason.strerror or str(reason)).lower()
    return f"{os.fsdecode(folder)}{more} cannot be watched: {word}; give the daemon's user the right to read it"


def explain_instance(error: OSError) -> str:
    """Why there is no inotify instance for a root."""
    if error.errno == errno.EMFILE:
        remedy = f"sysctl fs.inotify.max_user_instances={_more('max_user_instances', 0)}"
        return f"this user can have no more inotify instances; allow more: {remedy}"
    return f"inotify cannot be used: {(error.strerror or str(error)).lower()}"


def _more(limit: str, needed: int) -> int:
    """Twice what is allowed now, or what is needed with as much again to spare."""
    try:
        with open(f"{_SYSCTL}/{limit}", "rb") as file:
            now = int(file.read())
    except (OSError, ValueError):
        now = 0
    return 2 * max(now, needed, 64)
