"""Which files share their blocks already, so that a plan neither counts them nor touches them again."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from blake3 import blake3

from lorad.dedupe.extents import Extent, written_extents
from lorad.dedupe.keeping import Copy
from lorad.watch.mounts import MountTable, find

#: File systems that can share blocks between files.
SHARING = frozenset({b"bcachefs", b"btrfs", b"ocfs2", b"xfs", b"zfs"})
_EXTENT = struct.Struct("=QQQ")


def with_extents(sets: Sequence[Sequence[Copy]]) -> list[list[Copy]]:
    """The same sets, with `Copy.extents` where files of equal bytes lie on a file system that shares blocks.

    It opens those files; what cannot be opened, is another file now, or is not on the disk yet, stays without. To
    write such files first would hold a plan up, and blocks that are shared are on the disk.
    """
    places = _FileSystems()
    try:
        return [_looked_up(copies, places) for copies in sets]
    finally:
        places.close()


def _looked_up(copies: Sequence[Copy], places: _FileSystems) -> list[Copy]:
    contents = Counter((copy.residue, copy.size, copy.dev) for copy in copies)
    return [
        copy._replace(extents=_extents(copy))
        if contents[copy.residue, copy.size, copy.dev] > 1 and places.share(copy)
        else copy
        for copy in copies
    ]


class _FileSystems:
    """What each device is, looked up once."""

    def __init__(self) -> None:
        self._table = MountTable()
        self._share: dict[int, bool] = {}

    def share(self, copy: Copy) -> bool:
        if copy.dev not in self._share:
            mount = find(self._table.mounts, os.path.dirname(copy.paths[0])) if copy.paths else None
            self._share[copy.dev] = mount is not None and mount.kind in SHARING
        return self._share[copy.dev]

    def close(self) -> None:
        self._table.close()


def _extents(copy: Copy) -> bytes:
    """What stands for the places of all blocks of a file; empty where they cannot be told."""
    if not copy.paths:
        return b""
    with suppress(OSError):
        fd = os.open(copy.paths[0], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino, status.st_size) != (copy.dev, copy.ino, copy.size):
                return b""
            # A small file may lie in its inode, and has no block to share.
            places = b"".join(_EXTENT.pack(*extent) for extent in _joined(written_extents(fd)))
            return blake3(places).digest() if places else b""
        finally:
            os.close(fd)
    return b""


def _joined(found: Iterable[Extent]) -> Iterator[Extent]:
    """Extents that touch as one: two files may have the same blocks in pieces of other lengths."""
    last: Extent | None = None
    for extent in found:
        if last is None:
            last = extent
        elif (extent.start, extent.place) == (last.end, last.place + last.length):
            last = last._replace(length=last.length + extent.length)
        else:
            yield last
            last = extent
    if last is not None:
        yield last
