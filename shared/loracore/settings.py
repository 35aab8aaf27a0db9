"""What a setting may hold: the types of `loracore.config`, each with its rule, and what their texts mean."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Annotated

from msgspec import Meta

from loracore.paths import expanded
from loracore.policy import ACTIONS, KEEP_RULES, LEVELS, PATH_PREFIX, SIDECARS
from loracore.toml import Rule

_YEAR = 366 * 86400.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: Percent of a disk that may be asked to be free: more would empty it of all that is put aside.
_MOST_FREE = 50.0
#: SPEC section 5. What a watch leaves out: bins, snapshots, versions, thumbnails and the like; and `blobs` of a
#: Hugging Face cache, which is not a pattern. What de-duplication makes itself is always left out.
EXCLUDE = (
    ".Trash*", ".snapshots", ".zfs", ".stversions", ".stfolder", "#recycle", "@eaDir", "$RECYCLE.BIN",
    "lost+found", ".git", "__pycache__", ".ipynb_checkpoints",
)  # fmt: skip
#: At the beginning of a list of patterns: it does not extend `EXCLUDE`, but stands in its place.
NO_DEFAULT = "!default"


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
    if text not in KEEP_RULES:
        raise ValueError(text)
    return text


def excluded(patterns: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """The patterns that a configured list stands for, and whether `blobs` beside `snapshots` is left out."""
    if NO_DEFAULT in patterns[:1]:
        return tuple(patterns[1:]), False
    return (*EXCLUDE, *patterns), True


def _pattern(text: str) -> str:
    if text != NO_DEFAULT and (
        text.startswith("!") or "\0" in text or not {"", ".", ".."}.isdisjoint(text.split("/"))
    ):
        raise ValueError(text)
    return text


def grace_seconds(text: str) -> float:
    """Seconds of `90s`, `30m`, `12h` or `7d`. Raises ValueError."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    seconds = float(found[1]) * _UNITS[found[2]] if found else math.inf
    if seconds > 100 * _YEAR:
        raise ValueError(text)
    return seconds


def free_part(text: str) -> float:
    """The part of a disk that `5%` or `2.5%` stands for; 0 for `off`. Raises ValueError."""
    if text == "off":
        return 0.0
    found = re.fullmatch(r"(\d{1,2}(?:\.\d{1,3})?)%", text)
    if found is None or not 0 < float(found[1]) <= _MOST_FREE:
        raise ValueError(text)
    return float(found[1]) / 100


def _folder(text: str) -> str:
    path = expanded(text)
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ValueError(text)
    return "/" + os.path.normpath(path).lstrip("/")


def _folder_or_none(text: str) -> str:
    return _folder(text) if text else text


def _zero_or(least: int, most: int) -> Callable[[int], int]:
    """A whole number from `least` to `most`, or 0 for what 0 stands for."""

    def parse(value: int) -> int:
        if value and not least <= value <= most:
            raise ValueError(value)
        return value

    return parse


def _checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """The text as it is, if `check` can make something of it."""

    def parse(text: str) -> str:
        check(text)
        return text

    return parse


def _one_of(names: Sequence[str]) -> Meta:
    return Meta(pattern=rf"^(?:{'|'.join(map(re.escape, names))})\Z", description=_quoted(names))


def _quoted(names: Sequence[str]) -> str:
    """`"a", "b" or "c"`."""
    *first, last = (f'"{name}"' for name in names)
    return f"{', '.join(first)} or {last}"


Seconds = Annotated[float, Meta(gt=0, le=_YEAR, description="a number of seconds above 0 and at most a year")]
"""A duration."""
SecondsOrNone = Annotated[float, Meta(ge=0, le=_YEAR, description="0, or a number of seconds up to a year")]
"""A duration that may be nothing."""
Folder = Annotated[str, Rule('an absolute folder without "..", such as "/srv/models" or "~/models"', _folder)]
"""A folder; `~` is the home folder of the daemon's user."""
Pattern = Annotated[
    str,
    Rule(
        'a pattern of names such as "*.old", one of paths below a root such as "old/*", or "!default" in front',
        _pattern,
    ),
]
"""What is left out of the watch: a shell pattern for each name on the way to a file, or with "/" for the way."""
OptionalFolder = Annotated[str, Rule('an absolute folder without "..", or "" for the default', _folder_or_none)]
"""A folder, or "" for its default."""
OptionalAddress = Annotated[
    str,
    Rule('host:port, such as "127.0.0.1:9570", or "" for none', _checked(lambda text: text and host_port(text))),
]
"""Where to listen, or "" for nowhere."""
Loaders = Annotated[int, Meta(ge=0, le=16, description="0 to 16")]
"""A number of loader processes."""
Hasher = Annotated[str, _one_of(("auto", "cpu", "cuda"))]
"""What digests."""
Megabytes = Annotated[int, Rule("0 for none, or at least 64", _zero_or(64, 1 << 24))]
"""A limit of resident memory, in MiB."""
JobThreads = Annotated[int, Meta(ge=0, le=1024, description="0 for as many as there are cores, up to 1024")]
"""A number of threads."""
JobMegabytes = Annotated[int, Rule("0 for half of the machine's memory, or at least 256", _zero_or(256, 1 << 24))]
"""A limit of the memory that a job writes to, in MiB."""
GpuMegabytes = Annotated[int, Rule("0 for a small share of what is free, or at least 32", _zero_or(32, 1 << 16))]
"""A limit of a GPU's memory, in MiB."""
Mode = Annotated[str, Rule('an octal mode in quotes, such as "0660"', _checked(mode))]
"""The permissions of a socket."""
Group = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]*\Z", description="the name of a group")]
"""A group of the system, or "" for the daemon's own."""
Action = Annotated[str, _one_of(ACTIONS)]
"""What becomes of a duplicate."""
ActedLevel = Annotated[str, _one_of(LEVELS)]
"""A sameness for which a file may go."""
KeepRule = Annotated[
    str, Rule(f'{_quoted(KEEP_RULES).replace(" or", ",")} or "{PATH_PREFIX}/a/folder"', keep_rule)
]
"""Which file of a set is kept."""
Grace = Annotated[str, Rule('a duration such as "7d", "12h", "30m" or "0s"', _checked(grace_seconds))]
"""For how long what goes is put aside before it is removed."""
FreeBelow = Annotated[str, Rule('a part of a disk such as "5%", at most "50%", or "off"', _checked(free_part))]
"""Free space below which what is put aside is removed before its time."""
Sidecars = Annotated[str, _one_of(SIDECARS)]
"""What becomes of the files beside one that goes."""
