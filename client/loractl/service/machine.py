"""What the service is made for: the program of this environment, the folders, and who owns the files in them."""

from __future__ import annotations

import contextlib
import grp
import importlib.util
import os
import pwd
import stat
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from loracore.config import Config, with_options
from loracore.errors import MissingPackage, UsageError
from loracore.paths import shown
from loracore.tensorfile.readers import has_reader

#: Packages that only the extra `daemon` brings.
_DAEMON = ("blake3", "structlog", "watchdog")
#: Folders that the unit hides from the service, by ProtectHome= and PrivateTmp=.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
#: systemd takes no program whose path has one of these.
_NOT_IN_PROGRAMS = frozenset("\"'\\")
#: Names that are looked at to find the owner of the models.
_LOOKED_AT = 200_000


class Owner(NamedTuple):
    """Whom the model files belong to, and that user's own group."""

    user: str
    group: str


def program() -> str:
    """The `lorad` of the environment that this runs in. Raises UsageError and MissingPackage."""
    path = os.path.join(sysconfig.get_path("scripts"), "lorad")
    if not os.access(path, os.X_OK):
        raise UsageError(
            f"{shown(path)}: not there; install lorad into that environment: pip install 'lorad[daemon]'"
        )
    if not path.isprintable() or _NOT_IN_PROGRAMS.intersection(path):
        raise UsageError(f"{shown(path)}: systemd starts no program of such a name; install lorad in /opt/lorad")
    if any(importlib.util.find_spec(name) is None for name in _DAEMON):
        raise MissingPackage("the service needs the daemon's packages: pip install 'lorad[daemon]'")
    return path


def environment() -> list[str]:
    """Folders that the program is read from: the virtual environment, its Python, and an editable checkout."""
    specs = map(importlib.util.find_spec, ("loracore", "loractl", "lorad"))
    packages = [os.path.dirname(os.path.dirname(spec.origin)) for spec in specs if spec and spec.origin]
    python = os.path.dirname(os.path.dirname(os.path.realpath(sys.executable)))
    return [sys.prefix, sys.base_prefix, python, *packages]


def check_gpu() -> None:
    """Raises MissingPackage where digesting on a GPU is not installed."""
    if importlib.util.find_spec("cupy") is None:
        raise MissingPackage("--gpu needs CuPy: pip install 'lorad[gpu]'")


def folders(given: Sequence[str], hiding: Sequence[str] = _HIDDEN) -> tuple[str, ...]:
    """Absolute paths of the folders, less those that lie in another one. Raises UsageError.

    `hiding`: folders that the service does not see.
    """
    found = with_options(Config(), watch=given).watch.roots
    for path in found:
        if not os.path.isdir(path):
            raise UsageError(f"{shown(path)}: no such folder; mount it or make it first")
        if not (path + os.path.realpath(path)).isprintable():
            raise UsageError(f"{shown(path)}: systemd takes no such name; rename it in printable UTF-8")
        above = next((place for place in _with_targets(hiding) if _inside(place, os.path.realpath(path))), None)
        if above is not None:
            raise UsageError(
                f"{shown(path)}: the service does not see {above}; name the folders of models below it"
            )
    return found


def hidden(paths: Iterable[str], hiding: Sequence[str] = _HIDDEN) -> list[str]:
    """Those of the paths, and of what they lead to, that the service does not see unless they are bound."""
    both = {each for path in paths for each in (path, os.path.realpath(path))}
    found = {path for path in both if any(_inside(path, place) for place in _with_targets(hiding))}
    return sorted(path for path in found if not any(_inside(path, other) for other in found - {path}))


def owner(roots: Sequence[str]) -> Owner:
    """The one user whose models these are. Raises UsageError where it is not one, or root."""
    found: dict[int, str] = {}
    for path, uid in _owned(roots):
        found.setdefault(uid, path)
    for root in () if found else roots:
        found.setdefault(os.stat(root).st_uid, root)
    (uid, path), *others = found.items()
    if others:
        both = f"{shown(path)} is {_name(uid)}'s, {shown(others[0][1])} is {_name(others[0][0])}'s"
        raise UsageError(f"{both}: --act needs one owner; chown them, or leave --act out")
    if uid == 0:
        raise UsageError(
            f"{shown(path)}: is root's, and lorad never acts as root; chown the files to another user"
        )
    try:
        user = pwd.getpwuid(uid)
        return Owner(user.pw_name, grp.getgrgid(user.pw_gid).gr_name)
    except KeyError as error:
        raise UsageError(f"{shown(path)}: its owner {uid} has no name here; chown the files to a user") from error


def _owned(roots: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Model files below the roots and the numbers of their owners; symbolic links are not followed."""
    left = _LOOKED_AT
    for folder, _, names in (step for root in roots for step in os.walk(root)):
        for name in filter(lambda name: has_reader(os.fsencode(name)), names[: max(0, left)]):
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(path)
                if stat.S_ISREG(found.st_mode):
                    yield path, found.st_uid
        left -= len(names)
        if left <= 0:
            return


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _with_targets(paths: Sequence[str]) -> list[str]:
    return [*paths, *map(os.path.realpath, paths)]


def _inside(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
