"""Where things lie, and how a path that is not UTF-8 is shown."""

from __future__ import annotations

import os

#: The catalogue's name in the state folder.
CATALOGUE = "catalogue.sqlite"
#: Where the system's daemon has its sockets.
SYSTEM_RUNTIME_DIR = "/run/lorad"
#: In the state folder, where there is nothing better for them.
_RUNTIME = "run"


def default_state_dir() -> str:
    """The user's state folder for lorad (XDG base directories)."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "lorad")


def default_runtime_dir(state_dir: str | None = None) -> str:
    """Where a daemon puts its sockets: what systemd made for it, root's place, the user's, the state folder."""
    made = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if made:
        return made
    if os.geteuid() == 0:
        return SYSTEM_RUNTIME_DIR
    return _user_runtime_dir() or os.path.join(state_dir or default_state_dir(), _RUNTIME)


def runtime_dirs() -> list[str]:
    """Where a client looks for a daemon, in this order."""
    places = [SYSTEM_RUNTIME_DIR, _user_runtime_dir(), os.path.join(default_state_dir(), _RUNTIME)]
    return [place for place in places if place]


def default_config_dir() -> str:
    """The user's folder for what they set and keep: a client's keys (XDG base directories)."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "lorad")


def _user_runtime_dir() -> str:
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return os.path.join(base, "lorad") if base else ""


def shown(path: bytes | str) -> str:
    """A path fit for a terminal: what is not UTF-8, and control characters, become visible escapes."""
    raw = os.fsencode(path)
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
