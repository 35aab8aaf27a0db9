"""Where things lie, and how a path that is not UTF-8 is shown."""

from __future__ import annotations

import os
import pwd
import sys

from loracore.errors import UsageError

#: The catalogue's name in the state folder.
CATALOGUE = "catalogue.sqlite"
#: Where the system's daemon has its sockets.
SYSTEM_RUNTIME_DIR = "/run/lorad"
#: In the state folder, where there is nothing better for them.
_RUNTIME = "run"
#: Programs, and what `python -m` knows them by.
_MODULES = {"lorad": "lorad", "loractl": "loractl.cli"}


def home() -> str | None:
    """The user's home folder: HOME, else that of the user's account; None where neither names one.

    One that may not be entered is somebody else's, left in the environment by who changed to this user.
    """
    given = os.environ.get("HOME", "")
    if os.path.isabs(given) and _may_enter(given):
        return given
    try:
        found = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None
    return found if os.path.isabs(found) else None


def _may_enter(folder: str) -> bool:
    """Also one that is not there: whoever uses it says so."""
    try:
        os.stat(os.path.join(folder, "."))
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def expanded(path: str) -> str:
    """A path with `~` as the home folder. Raises ValueError where there is none."""
    if path != "~" and not path.startswith("~/"):
        return os.path.expanduser(path)
    if (ours := home()) is None:
        raise ValueError(path)
    return ours + path[1:]


def default_state_dir() -> str:
    """The user's state folder for lorad (XDG base directories). Raises UsageError."""
    if (base := _base("XDG_STATE_HOME", ".local", "state")) is None:
        raise UsageError("this user has no home folder: give --state-dir, or set HOME")
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
    state = _base("XDG_STATE_HOME", ".local", "state")
    places = [SYSTEM_RUNTIME_DIR, _user_runtime_dir(), os.path.join(state, "lorad", _RUNTIME) if state else ""]
    return [place for place in places if place]


def default_config_dir() -> str:
    """The user's folder for what they set and keep: a client's keys (XDG base directories). Raises UsageError."""
    if (base := _base("XDG_CONFIG_HOME", ".config")) is None:
        raise UsageError("this user has no home folder: set HOME")
    return os.path.join(base, "lorad")


def default_cache_dir() -> str:
    """The user's folder for what can be made anew (XDG base directories). Raises UsageError."""
    if (base := _base("XDG_CACHE_HOME", ".cache")) is None:
        raise UsageError("this user has no home folder: set XDG_CACHE_HOME or HOME")
    return os.path.join(base, "lorad")


def _base(variable: str, *below: str) -> str | None:
    """A base directory by its variable, which does not count where it is relative or empty, or below the home."""
    given, ours = os.environ.get(variable, ""), home()
    if os.path.isabs(given):
        return given
    return os.path.join(ours, *below) if ours else None


def _user_runtime_dir() -> str:
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return os.path.join(base, "lorad") if os.path.isabs(base) else ""


def shown(path: bytes | str) -> str:
    """A path fit for a terminal: what is not UTF-8, and control characters, become visible escapes."""
    raw = os.fsencode(path)
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def speak_utf8(program: str) -> None:
    """Begin a program anew where Python takes names and texts for another encoding, by the locale.

    Names of files would be written into JSON as what they are not. What is printed stays in the locale's encoding.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding if sys.stdout else 'utf-8'}:backslashreplace")
    os.execv(sys.executable, [sys.executable, "-P", "-m", _MODULES[program], *sys.argv[1:]])


AnyPath = str | bytes | os.PathLike[str]


def absolute(path: AnyPath) -> bytes:
    """A path as it travels in parameters: the daemon has another current folder."""
    return os.path.abspath(os.fsencode(path))
