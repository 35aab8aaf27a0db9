"""Looking at the adapter folders that the files of a plan are part of, so that it says which of them can go."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack

from loracore.adapter.folder import is_one_of_several, may_be_part, weight_parts
from loracore.paths import shown
from lorad.dedupe.action.folders import same_folders
from lorad.dedupe.wholes import Folders
from lorad.library.keepers import Copy

#: Larger files are compared when the folder goes, not for a plan. The weights are known to be equal.
_MOST = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def look_at_folders(sets: Iterable[Sequence[Copy]], roots: Collection[bytes]) -> Folders:
    """The adapter folders that files of these sets are part of. A root is none that could go."""

    def difference(folder: bytes, kept: bytes) -> str:
        return "it is a watched folder itself" if folder in roots else _difference(folder, kept)

    return Folders(adapter_folders(path for copies in sets for copy in copies for path in copy.paths), difference)


def adapter_folders(paths: Iterable[bytes]) -> dict[bytes, frozenset[bytes]]:
    """The adapter folders that these files are part of, with the weight files of each."""
    split = (path.rpartition(b"/") for path in paths)
    found = {folder for folder, _, name in split if may_be_part(name)}
    return {folder: parts for folder in sorted(found) if (parts := _parts(folder))}


def _parts(folder: bytes) -> frozenset[bytes]:
    """The weight files of an adapter folder, or what is there of one that is not complete."""
    try:
        names = os.listdir(folder)
    except OSError:
        return frozenset()
    parts = weight_parts(names) or filter(is_one_of_several, names)
    return frozenset(os.path.join(folder, name) for name in parts)


def _difference(folder: bytes, kept: bytes) -> str:
    with ExitStack() as stack:
        opened = []
        for each in (kept, folder):
            try:
                opened.append(os.open(each, _FOLDER))
            except OSError as error:
                return f"{shown(each)} cannot be read: {(error.strerror or str(error)).lower()}"
            stack.callback(os.close, opened[-1])
        return same_folders(*opened, most=_MOST)
