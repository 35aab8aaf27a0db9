"""Which files share their blocks already, so that a plan neither counts them nor touches them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lorad.blocks.looking import FileSystems, look_up
from lorad.dedupe.keeping import Copy


def with_extents(sets: Sequence[Sequence[Copy]]) -> list[list[Copy]]:
    """The same sets, with `Copy.extents` where several files lie on one file system that shares blocks.

    It opens those files; what cannot be opened, or is another file now, stays without.
    """
    places = FileSystems()
    return [_looked_up(copies, places) for copies in sets]


def _looked_up(copies: Sequence[Copy], places: FileSystems) -> list[Copy]:
    on_device = Counter(copy.dev for copy in copies)
    return [
        copy._replace(extents=look_up(copy.paths, copy.dev, copy.ino, copy.size) or b"")
        if on_device[copy.dev] > 1 and places.share(copy.dev, copy.paths)
        else copy
        for copy in copies
    ]
