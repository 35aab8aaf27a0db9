"""Which files share their blocks already, so that a plan neither counts them nor touches them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from lorad.blocks.looking import FileSystems, Place, look
from lorad.library.keepers import Copy


def with_extents(sets: Sequence[Sequence[Copy]]) -> list[list[Copy]]:
    """The same sets, with `Copy.extents` where several files lie on one file system that shares blocks.

    It opens those files; what cannot be opened, or is another file now, stays without.
    """
    file_systems = FileSystems()
    return [_looked_up(copies, file_systems) for copies in sets]


def _looked_up(copies: Sequence[Copy], file_systems: FileSystems) -> list[Copy]:
    places = [_place(copy, file_systems) for copy in copies]
    on_file_system = Counter(place.file_system for place in places if place is not None)
    return [
        copy._replace(
            extents=_look(place) if place is not None and on_file_system[place.file_system] > 1 else None
        )
        for copy, place in zip(copies, places, strict=True)
    ]


def _place(copy: Copy, file_systems: FileSystems) -> Place | None:
    with suppress(OSError):
        return file_systems.place(copy.paths, copy.dev, copy.ino, copy.size)
    return None


def _look(place: Place) -> bytes | None:
    with suppress(OSError):
        return look(place)
    return None
