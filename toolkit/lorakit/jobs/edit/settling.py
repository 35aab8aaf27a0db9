"""Ends what was interrupted: each file is found as it was or as it was to be, and what was hidden goes.

What stands at the name is told by its header, which is compared with both of the journal: so it holds whatever
number its disk or its inode has now. What is neither of the two is never removed.
"""

from __future__ import annotations

import os
import stat

from loracore.causes import explained
from loracore.errors import FileError, StateError
from loracore.paths import shown
from loracore.tensorfile import open_regular
from lorakit.jobs.edit.journal import Journal, Row, digest
from lorakit.jobs.edit.writing import drop


def settle_all(journal: Journal) -> tuple[str, ...]:
    """Settle what other processes have left; a warning for each file that cannot be."""
    found = (settle(journal, journal.row(number)) for number in journal.unsettled())
    return tuple(warning for warning in found if warning)


def settle(journal: Journal, row: Row) -> str:
    """Look how far a file came, and note it. A warning where that cannot be told, and the row stays."""
    assert row.hidden is not None
    folder = os.path.dirname(row.path)
    hidden = os.path.join(folder, row.hidden)
    if not os.path.isdir(folder):
        return f"{shown(folder)}: it is not there, and so an interrupted edit in it cannot be settled"
    try:
        here, aside = _which(row, row.path), _which(row, hidden)
        if here == aside == "none":
            # Its disk may be away, or its folder was moved: nothing is known of it until it is there again.
            return ""
        # Beside the old file, what is neither is the new one, half written.
        if aside == "other" and not (row.state == "begun" and here == "old"):
            return (
                f"{shown(row.path)}: another program replaced it as it was edited; what that wrote may be "
                f"{shown(hidden)}: give it its name again, or remove it"
            )
        if row.state == "begun" and aside == "old" and here in ("none", "other"):
            return (
                f"{shown(row.path)}: it was removed or changed after an edit of it was interrupted; what it was "
                f"before is {shown(hidden)}: remove that, or give it its name again"
            )
        if aside != "none":
            drop(row.path, row.hidden)
        mtime_ns = os.stat(row.path).st_mtime_ns if row.state == "begun" and here == "new" else row.new_mtime_ns
    except OSError as error:
        return f"{shown(hidden)}: what an interrupted edit left cannot be looked at or moved: {explained(error)}"
    except StateError as error:
        return str(error)
    journal.settle(row, done=row.state != "begun" or here == "new", mtime_ns=mtime_ns)
    return ""


def _which(row: Row, path: bytes) -> str:
    """`old` or `new` by its header and size, `none` where nothing is there, else `other`. Raises OSError."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return "none"
    if not stat.S_ISREG(status.st_mode):
        return "other"
    old, size = row.old_header, status.st_size
    try:
        with open_regular(path) as source:
            if size == row.old_size and source.size >= len(old) and source.read(0, len(old)) == old:
                return "old"
            length = 8 + int.from_bytes(source.read(0, 8), "little") if size >= 8 else 0
            # The new header is as much longer than the old one as the file is.
            wanted = len(old) + row.new_size - row.old_size
            if size == row.new_size and length == wanted and digest(source.read(0, length)) == row.new:
                return "new"
    except FileError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error
    return "other"
