"""Looking up where the blocks of known files lie, on file systems where files can share them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice

from lorad.blocks.extents import extents_now
from lorad.blocks.room import packed
from lorad.watch.mounts import Mount, find, read_mounts

#: File systems that can share blocks between files.
SHARING = frozenset({b"bcachefs", b"btrfs", b"ocfs2", b"xfs", b"zfs"})
#: A file in more pieces than this is not looked at to its end: it counts by its size.
_MOST = 4096


class FileSystems:
    """Which devices can share blocks, each looked up once; for one look at many files."""

    def __init__(self) -> None:
        self._mounts: list[Mount] | None = None
        self._share: dict[int, bool] = {}

    def share(self, dev: int, paths: Sequence[bytes]) -> bool:
        """Whether files on this device, where these names are, can share blocks."""
        if dev not in self._share and paths:
            if self._mounts is None:
                self._mounts = read_mounts()
            mount = find(self._mounts, os.path.dirname(paths[0]))
            self._share[dev] = mount is not None and mount.kind in SHARING
        return self._share.get(dev, False)


def look_up(paths: Sequence[bytes], dev: int, ino: int, size: int) -> bytes | None:
    """The extents of this file, packed, by the first of its names that leads to it; None where none does.

    Empty where they cannot be told, or are too many. What is not on the disk yet is not written for it; it shares
    nothing.
    """
    for path in paths:
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino, status.st_size) == (dev, ino, size):
                    found = list(islice(extents_now(fd), _MOST + 1))
                    return packed(found) if len(found) <= _MOST else b""
            finally:
                os.close(fd)
    return None
