"""What a setting may hold: the types of `loracore.config`, each with its rule, and what their texts mean."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Annotated

from loracore.paths import expanded
from loracore.toml import Rule

_YEAR = 366 * 86400.0
#: SPEC section 5. What `[dedupe]` may do with a file, and the samenesses that it may do it for.
ACTIONS = ("report", "reflink", "hardlink", "symlink", "quarantine", "delete")
ACTED_LEVELS = ("file", "tensors")
#: Rules that say which file of a set is kept. The prefix names a folder: `path-prefix:/srv/models/best`.
KEEP_RULES = ("most-metadata", "oldest", "newest", "shortest-path")
PATH_PREFIX = "path-prefix:"
SIDECARS = ("keep", "move")


def host_port(text: str) -> tuple[str, int]:
    """The parts of `192.0.2.1:5570`, `[2001:db8::1]:5570` or `localhost:5570`. Raises ValueError."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})", text)
    if found is None or not 0 < int(found[3]) < 1 << 16:
        raise ValueError(text)
    return found[1] or found[2], int(found[3])


def mode(text: str) -> int:
    """The mode that `0660` stands for; its owner can always read and write. Raises ValueError."""
    if not re.fullmatch("0?[67][0-7]{2}", text):
        raise ValueError(text)
    return int(text, 8)


def keep_rule(text: str) -> str:
    """A keep rule as it is used: its folder, if it has one, absolute and without `~`. Raises ValueError."""
    if text.startswith(PATH_PREFIX):
        return PATH_PREFIX + _folder(text.removeprefix(PATH_PREFIX))
    return _one_of(KEEP_RULES)(text)


def _seconds(value: float) -> float:
    if not (math.isfinite(value) and 0 < value <= _YEAR):
        raise ValueError(value)
    return value


def _seconds_or_none(value: float) -> float:
    return _seconds(value) if value else value


def _folder(text: str) -> str:
    path = expanded(text)
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ValueError(text)
    return "/" + os.path.normpath(path).lstrip("/")


def _folder_or_none(text: str) -> str:
    return _folder(text) if text else text


def _address_or_none(text: str) -> str:
    if text:
        host_port(text)
    return text


def _mode_text(text: str) -> str:
    mode(text)
    return text


def _loaders(value: int) -> int:
    if not 0 <= value <= 16:
        raise ValueError(value)
    return value


def _memory_limit(value: int) -> int:
    if value != 0 and not 64 <= value <= 1 << 24:
        raise ValueError(value)
    return value


def _job_threads(value: int) -> int:
    if not 0 <= value <= 1024:
        raise ValueError(value)
    return value


def _job_memory(value: int) -> int:
    if value != 0 and not 256 <= value <= 1 << 24:
        raise ValueError(value)
    return value


def _gpu_memory(value: int) -> int:
    if value != 0 and not 32 <= value <= 1 << 16:
        raise ValueError(value)
    return value


def _hasher(text: str) -> str:
    if text not in {"auto", "cpu", "cuda"}:
        raise ValueError(text)
    return text


def _group(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]*", text):
        raise ValueError(text)
    return text


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(text)
        return text

    return parse


def _quoted(names: Sequence[str]) -> str:
    """`"a", "b" or "c"`."""
    *first, last = (f'"{name}"' for name in names)
    return f"{', '.join(first)} or {last}"


Seconds = Annotated[float, Rule("a number of seconds above 0 and at most a year", _seconds)]
"""A duration."""
SecondsOrNone = Annotated[float, Rule("0, or a number of seconds up to a year", _seconds_or_none)]
"""A duration that may be nothing."""
Folder = Annotated[str, Rule('an absolute folder without "..", such as "/srv/models" or "~/models"', _folder)]
"""A folder; `~` is the home folder of the daemon's user."""
OptionalFolder = Annotated[str, Rule('an absolute folder without "..", or "" for the default', _folder_or_none)]
"""A folder, or "" for its default."""
OptionalAddress = Annotated[str, Rule('host:port, such as "127.0.0.1:9570", or "" for none', _address_or_none)]
"""Where to listen, or "" for nowhere."""
Loaders = Annotated[int, Rule("0 to 16", _loaders)]
"""A number of loader processes."""
Hasher = Annotated[str, Rule('"auto", "cpu" or "cuda"', _hasher)]
"""What digests."""
Megabytes = Annotated[int, Rule("0 for none, or at least 64", _memory_limit)]
"""A limit of resident memory, in MiB."""
JobThreads = Annotated[int, Rule("0 for as many as there are cores, up to 1024", _job_threads)]
"""A number of threads."""
JobMegabytes = Annotated[int, Rule("0 for half of the machine's memory, or at least 256", _job_memory)]
"""A limit of the memory that a job writes to, in MiB."""
GpuMegabytes = Annotated[int, Rule("0 for a small share of what is free, or at least 32", _gpu_memory)]
"""A limit of a GPU's memory, in MiB."""
Mode = Annotated[str, Rule('an octal mode in quotes, such as "0660"', _mode_text)]
"""The permissions of a socket."""
Group = Annotated[str, Rule("the name of a group", _group)]
"""A group of the system, or "" for the daemon's own."""
Action = Annotated[str, Rule(_quoted(ACTIONS), _one_of(ACTIONS))]
"""What becomes of a duplicate."""
ActedLevel = Annotated[str, Rule(_quoted(ACTED_LEVELS), _one_of(ACTED_LEVELS))]
"""A sameness for which a file may go."""
KeepRule = Annotated[
    str, Rule(f'{_quoted(KEEP_RULES).replace(" or", ",")} or "{PATH_PREFIX}/a/folder"', keep_rule)
]
"""Which file of a set is kept."""
Sidecars = Annotated[str, Rule(_quoted(SIDECARS), _one_of(SIDECARS))]
"""What becomes of the files beside one that goes."""
