"""Where things lie, and how a path that is not UTF-8 is shown."""

from __future__ import annotations

import os

#: The catalogue's name in the state folder.
CATALOGUE = "catalogue.sqlite"


def default_state_dir() -> str:
    """The user's state folder for lorad (XDG base directories)."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "lorad")


def shown(path: bytes | str) -> str:
    """A path fit for a terminal: what is not UTF-8, and control characters, become visible escapes."""
    raw = os.fsencode(path)
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
