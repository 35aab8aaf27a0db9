"""Adapter folders in a plan: one goes as a whole, for another of the same files, or no file of it does. Pure."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from loracore.paths import shown
from lorad.dedupe.sets import Going, Judged
from lorad.library.keepers import is_inside

PART = "part of a folder"


class Folders(NamedTuple):
    """The weight files of each adapter folder, and in what one is not the same as another; empty where it is."""

    weights: Mapping[bytes, Collection[bytes]] = {}
    difference: Callable[[bytes, bytes], str] = lambda folder, kept: ""

    def of(self, path: bytes) -> bytes:
        """The adapter folder that a file is a part of; empty for none."""
        folder = os.path.dirname(path)
        return folder if path in self.weights.get(folder, ()) else b""


def go_whole(sets: Sequence[Judged], folders: Folders) -> list[bytes]:
    """The folders that go, none inside another. Parts of the others are left alone."""
    names = sorted(path for made in sets for copy in made.copies for path in (*copy.paths, *copy.links))
    reasons: dict[bytes, str] = {}
    again = bool(folders.weights)
    while again:
        going = {path: each for made in sets for each in made.going for path in each.copy.paths}
        parts = {folder for path in going if (folder := folders.of(path))}
        reasons = {folder: _why_not(folder, names, going, folders) for folder in parts}

        def why(each: Going, reasons: Mapping[bytes, str] = reasons) -> str:
            found = (reasons.get(folders.of(path), "") for path in each.copy.paths)
            return next(filter(None, found), "")

        # What stays for this may have names in other folders.
        again = sum(made.keep_back(why) for made in sets) > 0
    whole = [folder for folder, reason in sorted(reasons.items()) if not reason]
    return [one for one in whole if not any(one != other and is_inside(one, other) for other in whole)]


def by_folder(paths: Iterable[bytes], whole: Sequence[bytes]) -> dict[bytes, list[bytes]]:
    """These paths by the folder that goes with them; under an empty one those that go alone."""
    found: dict[bytes, list[bytes]] = defaultdict(list)
    known = frozenset(whole)
    for path in paths:
        found[next((folder for folder in _around(path) if folder in known), b"") if known else b""].append(path)
    return found


def _around(path: bytes) -> Iterator[bytes]:
    while path != b"/":
        path = os.path.dirname(path)
        yield path


def _why_not(folder: bytes, names: Sequence[bytes], going: Mapping[bytes, Going], folders: Folders) -> str:
    """Why a folder does not go; empty where it does, for another one. `names`: of all sets, sorted."""
    kept = b""
    inside = os.path.join(folder, b"")
    below = names[bisect_left(names, inside) : bisect_left(names, inside[:-1] + b"0")]
    for path in (*sorted(folders.weights[folder]), *below):
        if path not in going:
            return f"{PART}: {shown(path)} stays"
        twin, name = going[path].choice.path, path[len(folder) :]
        kept = kept or twin.removesuffix(name)
        if going[path].level != "file" or twin != kept + name or kept not in folders.weights:
            return f"{PART}: {shown(twin)} is not in a folder like it"
    if is_inside(kept, folder):
        return f"{PART}: what is kept lies in it"
    difference = folders.difference(folder, kept)
    return f"{PART}: {difference}" if difference else ""
