"""Files that are not complete yet, by name and what is beside them: what downloaders, browsers and rsync leave."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice

from loracore.tensorfile import has_reader

#: What downloaders and browsers call a file that is not complete yet.
UNFINISHED = (
    b".part", b".partial", b".filepart", b".tmp", b".temp", b".crdownload", b".opdownload", b".incomplete",
    b".unfinished", b".download", b".fdmdownload", b".aria2", b".!ut", b".!qb", b".bc!",
)  # fmt: skip
_DOWNLOAD = "a download that is not finished"
_COPY = "a copy by rsync that is not finished"
_WINDOWS = "what Windows keeps beside a download, no model"
#: rsync(1), --partial-dir and --delay-updates.
_PARTIAL_FOLDERS = (b".rsync-partial", b".~tmp~")
#: rsync(1), --temp-dir: a dot, the name, and six letters or digits.
_RSYNC = re.compile(rb"\.(.+)\.[A-Za-z0-9]{6}", re.DOTALL)
#: Firefox puts letters of its own before the suffix: `x.Ab3dE_xY.safetensors.part`.
_FIREFOX = re.compile(rb"(.+)\.[\w-]{6,12}(\.[^.]+)", re.DOTALL)
#: Other names in a folder that are looked at for the sake of an empty file.
_BESIDE = 1000


def why_unfinished(path: bytes, size: int, downloads: Collection[bytes] | None) -> str:
    """Why a file is not to be read, by its name and what is beside it; empty if it is.

    `downloads`: see `being_downloaded`, of its folder; None where that is yet to be looked at.
    """
    folder, name = os.path.split(path)
    if name.lower().endswith(UNFINISHED):
        return _DOWNLOAD
    if b":" in name and name.rpartition(b":")[2].lower() in (b"zone.identifier", b"smartscreen"):
        return _WINDOWS
    temporary = _RSYNC.fullmatch(name)
    if os.path.basename(folder) in _PARTIAL_FOLDERS or (temporary and has_reader(temporary[1])):
        return _COPY
    if downloads is None and has_reader(name):
        downloads = being_downloaded(_beside(path, size))
    # A browser keeps the place of a name by an empty file; aria2 writes to the name itself.
    if downloads and ((name in downloads and not size) or name + b".aria2" in downloads):
        return f"{_DOWNLOAD}: what it has is beside it"
    return ""


def being_downloaded(names: Iterable[bytes]) -> frozenset[bytes]:
    """The names that downloads in a folder will have, and those that aria2 keeps beside them."""
    found = set()
    for name in names:
        lower = name.lower()
        suffix = next((suffix for suffix in UNFINISHED if lower.endswith(suffix)), b"")
        if suffix:
            whole = name[: -len(suffix)]
            found.add(whole)
            if letters := _FIREFOX.fullmatch(whole):
                found.add(letters[1] + letters[2])
            if suffix == b".aria2":
                found.add(name)
    return frozenset(found)


def _beside(path: bytes, size: int) -> Iterator[bytes]:
    """What may be beside a file for it to be a download, as far as that is there."""
    folder, name = os.path.split(path)
    for suffix in (b".aria2",) if size else UNFINISHED:
        if os.path.lexists(path + suffix):
            yield name + suffix
    if not size:
        with suppress(OSError), os.scandir(folder) as listing:
            yield from (entry.name for entry in islice(listing, _BESIDE))
